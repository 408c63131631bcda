use rcgen::date_time_ymd;
use rustls_pki_types::pem::PemObject;

use super::*;
use crate::config::report::Severity;
use crate::tls::pem;

const ENCRYPTED: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIGj\n-----END ENCRYPTED PRIVATE KEY-----\n";
const ENCRYPTED_OLD: &str = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nMIGj\n\
    -----END RSA PRIVATE KEY-----\n";

fn codes(report: &Report) -> Vec<&'static str> {
    report.problems.iter().map(|problem| problem.code).collect()
}

fn problems_of(tls: &ListenerTls) -> Report {
    let mut report = Report::default();
    let built = ServerPolicies::build(tls, BOTH, None, &mut report);
    assert_eq!(built.is_none(), report.has_errors());
    report
}

fn with(default: TlsPolicy) -> ListenerTls {
    ListenerTls { default, policies: Vec::new() }
}

#[test]
fn every_way_in_which_a_file_can_be_wrong_has_its_own_report() {
    let (ca, files) = (Ca::new("ca"), Files::new());
    let pair = ca.server(&["a.test"]);
    let folder = located(files.missing().value.parent().expect("a folder").to_owned());
    let cases: Vec<(Located<PathBuf>, Option<&str>, Option<&str>)> = vec![
        (files.missing(), Some("missing-file"), Some("missing-file")),
        (folder, Some("bad-file"), Some("bad-file")),
        (files.write(""), Some("no-certificate"), Some("no-key")),
        (files.write("garbage"), Some("no-certificate"), Some("no-key")),
        (files.write(&pair.der), Some("no-certificate"), Some("no-key")),
        (files.write(&pair.cert[..pair.cert.len() / 2]), Some("broken-pem"), Some("broken-pem")),
        (
            files.write("-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n"),
            Some("broken-pem"),
            Some("broken-pem"),
        ),
        (files.write(&pair.key), Some("no-certificate"), None),
        (files.write(&pair.cert), None, Some("no-key")),
        (files.write(format!("{}{}", pair.cert, pair.key)), None, None),
        (files.write(ENCRYPTED), Some("no-certificate"), Some("encrypted-key")),
        (files.write(ENCRYPTED_OLD), Some("broken-pem"), Some("encrypted-key")),
        (files.write(format!("{0}{0}", pair.key)), Some("no-certificate"), Some("several-keys")),
        (files.write(vec![b'\n'; 5 << 20]), Some("bad-file"), Some("bad-file")),
    ];
    for (path, as_certificate, as_key) in cases {
        let mut report = Report::default();
        assert_eq!(pem::certificates(&path, &mut report).is_none(), as_certificate.is_some());
        assert_eq!(codes(&report), Vec::from_iter(as_certificate));
        let mut report = Report::default();
        assert_eq!(pem::private_key(&path, &mut report).is_none(), as_key.is_some());
        assert_eq!(codes(&report), Vec::from_iter(as_key));
        for problem in &report.problems {
            assert!(problem.severity == Severity::Error && problem.help.is_some(), "{problem:?}");
            assert!(!problem.message.contains("MIG"), "nothing of a key is printed: {problem:?}");
        }
    }
}

/// rustls-pemfile is no longer maintained: whatever it reads, its successor must read alike.
#[test]
fn the_successor_of_the_pem_reader_reads_the_same() {
    let (ca, files) = (Ca::new("ca"), Files::new());
    let pair = ca.server(&["a.test"]);
    let texts = [
        pair.cert.clone(),
        format!("{}\r\nsome words between\r\n{}", pair.cert, ca.pem),
        pair.cert.replace('\n', "\r\n"),
        format!("{}{}", pair.key, pair.cert),
        pair.key.clone(),
        format!("{}{}", ENCRYPTED, pair.cert),
        "-----BEGIN CERTIFICATE-----\nAAAA\n".to_owned(),
        String::new(),
    ];
    for text in texts {
        let path = files.write(&text);
        let ours = pem::certificates(&path, &mut Report::default());
        let theirs: Option<Vec<_>> = CertificateDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<_, _>>()
            .ok()
            .filter(|all: &Vec<CertificateDer<'_>>| !all.is_empty());
        assert_eq!(ours, theirs, "{text}");
        let ours = pem::private_key(&path, &mut Report::default());
        if !text.contains("ENCRYPTED") {
            assert_eq!(ours, PrivateKeyDer::from_pem_slice(text.as_bytes()).ok(), "{text}");
        }
    }
}

#[test]
fn a_key_that_does_not_belong_to_the_certificate_is_an_error() {
    let (ca, files) = (Ca::new("ca"), Files::new());
    let (one, two) = (ca.server(&["a.test"]), ca.server(&["a.test"]));
    let mixed = CertificateFiles { cert: files.write(&one.cert), key: files.write(&two.key) };
    let report = problems_of(&with(policy(vec![mixed], ClientAuth::None)));
    assert_eq!(codes(&report), ["key-mismatch"]);
    // The issuer before the leaf.
    let wrong_order =
        CertificateFiles { cert: files.write(format!("{}{}", ca.pem, one.cert)), key: files.write(&one.key) };
    let report = problems_of(&with(policy(vec![wrong_order], ClientAuth::None)));
    assert_eq!(codes(&report), ["certificate-without-names", "key-mismatch"][1..]);
    let help = report.problems[0].help.as_deref().unwrap_or_default();
    assert!(help.contains("must come first"), "{help}");
}

#[test]
fn broken_certificates_and_keys_are_errors_not_panics() {
    let (ca, files) = (Ca::new("ca"), Files::new());
    let pair = ca.server(&["a.test"]);
    let der = "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n";
    let key = "-----BEGIN PRIVATE KEY-----\nMAMCAQE=\n-----END PRIVATE KEY-----\n";
    let bad = CertificateFiles { cert: files.write(der), key: files.write(key) };
    assert_eq!(codes(&problems_of(&with(policy(vec![bad], ClientAuth::None)))), ["bad-certificate", "bad-key"]);
    let ca_file = ClientAuth::Required { ca: files.write(der) };
    assert_eq!(codes(&problems_of(&with(policy(vec![files.pair(&pair)], ca_file)))), ["bad-ca"]);
}

#[test]
fn dates_and_missing_names_are_warnings() {
    let (ca, files) = (Ca::new("ca"), Files::new());
    let old = ca.issue(&["a.test"], |params| params.not_after = date_time_ymd(2020, 1, 1));
    let future = ca.issue(&["a.test"], |params| params.not_before = date_time_ymd(2200, 1, 1));
    let nameless = ca.server(&[]);
    let certificates = [&old, &future, &nameless].map(|pair| files.pair(pair)).to_vec();
    let report = problems_of(&with(policy(certificates, ClientAuth::None)));
    assert_eq!(codes(&report), ["certificate-expired", "certificate-not-yet-valid", "certificate-without-names"]);
    assert!(!report.has_errors());
}

// TLS-10
#[test]
fn a_missing_empty_or_broken_client_ca_is_an_error() {
    let (ca, files) = (Ca::new("ca"), Files::new());
    let certificate = files.pair(&ca.server(&["a.test"]));
    for (file, code) in [
        (files.missing(), "missing-file"),
        (files.write(""), "no-certificate"),
        (files.write("garbage"), "no-certificate"),
        (files.write(&ca.pem[..100]), "broken-pem"),
    ] {
        for client_auth in [ClientAuth::Required { ca: file.clone() }, ClientAuth::Optional { ca: file.clone() }] {
            let report = problems_of(&with(policy(vec![certificate.clone()], client_auth)));
            assert_eq!(codes(&report), [code]);
        }
    }
}

#[test]
fn one_run_names_the_problems_of_all_policies() {
    let (ca, files) = (Ca::new("ca"), Files::new());
    let missing = CertificateFiles { cert: files.missing(), key: files.write(&ca.server(&[]).key) };
    let tls = ListenerTls {
        default: policy(vec![missing], ClientAuth::Required { ca: files.write("") }),
        policies: vec![for_hosts(&["b.test"], policy(Vec::new(), ClientAuth::Required { ca: files.missing() }))],
    };
    assert_eq!(codes(&problems_of(&tls)), ["missing-file", "no-certificate", "missing-file"]);
}

#[test]
fn policy_hosts_must_be_covered_unique_and_names() {
    let (ca, files) = (Ca::new("ca"), Files::new());
    let certificate = files.pair(&ca.server(&["a.test", "*.b.test"]));
    let good = for_hosts(&["a.test", "*.b.test", "x.b.test"], policy(Vec::new(), ClientAuth::None));
    let bad = for_hosts(&["a.test", "c.test", "10.0.0.1"], policy(Vec::new(), ClientAuth::None));
    let tls = ListenerTls { default: policy(vec![certificate], ClientAuth::None), policies: vec![good, bad] };
    assert_eq!(codes(&problems_of(&tls)), ["host-not-covered", "address-as-tls-host", "duplicate-tls-host"]);
}

#[test]
fn hosts_of_routes_without_a_certificate_are_warned_about() {
    let ca = Ca::new("ca");
    let (_files, policies) = simple(&ca);
    let hosts = ["a.test", "b.test", "*.a.test"].map(|host| located(pattern(host)));
    let mut report = Report::default();
    policies.check_hosts(&hosts, &mut report);
    assert_eq!(codes(&report), ["host-not-covered"; 2]);
    assert!(!report.has_errors());
}
