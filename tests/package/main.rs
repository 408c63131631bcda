//! What is shipped, taken apart: the Debian package and the archive that `packaging/build` makes.
//!
//! `tests/run rust` installs what is needed and runs this; a plain `cargo test` leaves it out (`test = false` in
//! Cargo.toml). The program in it is that of the tests, since how it was optimised makes no difference here.

#![allow(clippy::disallowed_methods)] // tests may run programs

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use tempfile::TempDir;

/// Built and unpacked once.
static PACKAGE: LazyLock<Package> = LazyLock::new(Package::build);

struct Package {
    folder: TempDir,
    deb: PathBuf,
    archive: PathBuf,
}

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What it prints; it has to succeed.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    text(&output)
}

fn build(output: &Path) {
    let binary = env!("CARGO_BIN_EXE_portcullis");
    let mut command = Command::new(checkout().join("packaging/build"));
    // How well it is compressed makes no difference here either.
    command.args(["--binary", binary, "--output"]).arg(output).env("DPKG_DEB_COMPRESSOR_LEVEL", "1");
    run(&mut command);
}

fn only(folder: &Path, ending: &str) -> PathBuf {
    let files = fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").path());
    let mut found: Vec<_> = files.filter(|file| file.to_string_lossy().ends_with(ending)).collect();
    assert_eq!(found.len(), 1, "{ending}: {found:?}");
    found.remove(0)
}

impl Package {
    fn build() -> Self {
        let folder = TempDir::new().expect("a folder");
        let out = folder.path().join("out");
        build(&out);
        let (deb, archive) = (only(&out, ".deb"), only(&out, ".tar.gz"));
        run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(folder.path().join("root")));
        run(Command::new("dpkg-deb").arg("-e").arg(&deb).arg(folder.path().join("control")));
        run(Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(folder.path()));
        Self { folder, deb, archive }
    }

    fn file(&self, place: &str) -> PathBuf {
        self.folder.path().join("root").join(place)
    }

    fn read(&self, place: &str) -> String {
        fs::read_to_string(self.file(place)).unwrap_or_else(|error| panic!("{place}: {error}"))
    }
}

#[test]
fn the_packed_program_says_what_it_is_and_finds_its_first_configuration_good() {
    let program = PACKAGE.file("usr/bin/portcullis");
    let version = run(Command::new(&program).arg("--version"));
    assert!(version.starts_with(&format!("portcullis {}\nfeatures: ", env!("CARGO_PKG_VERSION"))), "{version}");
    let config = PACKAGE.file("etc/portcullis/portcullis.toml");
    let checked = run(Command::new(&program).arg("check").arg("--config").arg(config));
    assert!(checked.contains("is good: 1 listener, 1 route"), "{checked}");
}

#[test]
fn the_package_depends_on_the_libraries_that_the_program_is_linked_with() {
    let control = fs::read_to_string(PACKAGE.folder.path().join("control/control")).expect("control");
    assert!(control.contains("\nDepends: libc6 (>= 2."), "{control}");
    assert!(control.contains(&format!("\nVersion: {}-1\n", env!("CARGO_PKG_VERSION"))), "{control}");
}

#[test]
fn files_belong_to_root_and_what_an_administrator_changes_is_kept_on_an_upgrade() {
    let listed = run(Command::new("dpkg-deb").arg("-c").arg(&PACKAGE.deb));
    assert!(listed.lines().all(|line| line.contains(" root/root ")), "{listed}");
    assert!(listed.lines().all(|line| !line.contains('w') || !line[..10].ends_with('w')), "{listed}");
    let conffiles = fs::read_to_string(PACKAGE.folder.path().join("control/conffiles")).expect("conffiles");
    for file in conffiles.lines() {
        assert!(PACKAGE.file(file.trim_start_matches('/')).exists(), "{file}");
    }
    let in_etc = listed.lines().filter(|line| line.contains("./etc/") && line.starts_with('-')).count();
    assert_eq!(conffiles.lines().count(), in_etc);
}

#[test]
fn the_same_checkout_gives_the_same_package() {
    let again = TempDir::new().expect("a folder");
    let out = again.path().join("out");
    build(&out);
    for (first, second) in [(&PACKAGE.deb, only(&out, ".deb")), (&PACKAGE.archive, only(&out, ".tar.gz"))] {
        assert!(fs::read(first).expect("one") == fs::read(&second).expect("another"), "{}", second.display());
    }
}

#[test]
fn every_command_has_a_manual_page_that_the_formatter_likes() {
    let help = run(Command::new(PACKAGE.file("usr/bin/portcullis")).arg("--help"));
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names: Vec<_> =
        commands.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help").collect();
    assert!(names.contains(&"run") && names.len() > 4, "{help}");
    let operating = ["reload", "upgrade", "status", "ps", "kill", "drain", "log"];
    let pages = names.iter().chain(&operating).map(|name| format!("-{name}")).chain([String::new()]);
    for page in pages.map(|name| PACKAGE.file(&format!("usr/share/man/man1/portcullis{name}.1.gz"))) {
        let output = Command::new("man")
            .args(["--warnings", "-E", "UTF-8", "-P", "cat", "-l"])
            .arg(&page)
            .env("MANWIDTH", "80")
            .output()
            .expect("man runs");
        assert!(output.status.success() && output.stderr.is_empty(), "{}: {}", page.display(), text(&output));
    }
    let first =
        run(Command::new("man").args(["-P", "cat", "-l"]).arg(PACKAGE.file("usr/share/man/man1/portcullis.1.gz")));
    for part in ["FILES", "SIGNALS", "SIGHUP", "EXIT STATUS"] {
        assert!(first.contains(part), "{part}: {first}");
    }
}

#[test]
fn bash_completes_commands_and_options() {
    let script = PACKAGE.file("usr/share/bash-completion/completions/portcullis");
    let complete = |words: &str, last: usize| {
        let ask = format!(
            "source {}; COMP_WORDS=({words}); COMP_CWORD={last}; _portcullis portcullis \"${{COMP_WORDS[{last}]}}\" \
             \"${{COMP_WORDS[{}]}}\"; echo \"${{COMPREPLY[*]}}\"",
            script.display(),
            last - 1,
        );
        run(Command::new("bash").args(["--norc", "-c", &ask]))
    };
    assert_eq!(complete("portcullis exp", 1).trim(), "explain expose");
    assert!(complete("portcullis check --c", 2).contains("--config"));
    assert_eq!(complete("portcullis rel", 1).trim(), "reload");
}

#[test]
fn the_unit_is_understood_and_leaves_little_to_attack() {
    let folder = TempDir::new().expect("a folder");
    let unit = folder.path().join("portcullis.service");
    let program = PACKAGE.file("usr/bin/portcullis");
    let text = PACKAGE.read("usr/lib/systemd/system/portcullis.service");
    fs::write(&unit, text.replace("/usr/bin/portcullis", &program.display().to_string())).expect("written");
    let said = run(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit));
    assert!(!said.contains("portcullis.service"), "{said}");
    // 0 is the safest of ten; a service without a word about it has 9.6.
    run(Command::new("systemd-analyze")
        .args(["security", "--no-pager", "--offline=true", "--threshold=20"])
        .arg(&unit));
}

#[test]
fn the_maintainers_scripts_start_a_new_service_and_hand_over_on_an_upgrade() {
    let folder = TempDir::new().expect("a folder");
    // What they call, but for the shell, writes down that it was called.
    for tool in ["systemctl", "systemd-sysusers", "deb-systemd-helper", "deb-systemd-invoke", "chown", "chmod", "rm"] {
        let stub = folder.path().join(tool);
        let script = format!("#!/bin/sh\necho \"{tool} $*\" >>{}/calls\n", folder.path().display());
        fs::write(&stub, script).expect("written");
        fs::set_permissions(&stub, fs::Permissions::from_mode(0o755)).expect("executable");
    }
    let called = |script: &str, args: &[&str]| {
        fs::write(folder.path().join("calls"), "").expect("written");
        // As on a machine that systemd runs.
        let source = fs::read_to_string(PACKAGE.folder.path().join("control").join(script)).expect("a script");
        let place = folder.path().join(script);
        fs::write(&place, source.replace("/run/systemd/system", &folder.path().display().to_string()))
            .expect("written");
        run(Command::new("/bin/sh").arg("-eu").arg(&place).args(args).env("PATH", folder.path()).env_remove("ENV"));
        fs::read_to_string(folder.path().join("calls")).expect("calls")
    };
    let new = called("postinst", &["configure", ""]);
    for call in [
        "systemd-sysusers portcullis.conf",
        "chmod 0750 /etc/portcullis",
        "deb-systemd-invoke start portcullis.service",
    ] {
        assert!(new.contains(call), "{call}: {new}");
    }
    let upgraded = called("postinst", &["configure", "0.0.9-1"]);
    assert!(upgraded.contains("systemctl kill --kill-whom=main --signal=SIGUSR2 portcullis.service"), "{upgraded}");
    assert!(!upgraded.contains("start") && !upgraded.contains("chmod"), "{upgraded}");
    assert_eq!(called("prerm", &["upgrade", "0.2.0-1"]), "");
    assert!(called("prerm", &["remove"]).contains("deb-systemd-invoke stop portcullis.service"));
    assert!(!called("postrm", &["remove"]).contains("rm "));
    assert!(called("postrm", &["purge"]).contains("rm -rf /var/log/portcullis"));
}

#[test]
fn the_archive_has_the_program_its_papers_and_every_example() {
    let name = PACKAGE.archive.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
    let root = PACKAGE.folder.path().join(name.trim_end_matches(".tar.gz"));
    for file in ["usr/bin/portcullis", "usr/share/doc/portcullis/config.md", "usr/share/man/man1/portcullis.1.gz"] {
        assert!(root.join(file).exists(), "{file}");
    }
    for example in fs::read_dir(checkout().join("conf")).expect("conf") {
        let name = example.expect("an entry").file_name();
        assert!(root.join("usr/share/doc/portcullis/examples").join(&name).exists(), "{name:?}");
    }
    let sums = fs::read_to_string(PACKAGE.deb.with_file_name("SHA256SUMS")).expect("sums");
    assert!(sums.lines().count() == 2 && sums.contains(&name), "{sums}");
}
