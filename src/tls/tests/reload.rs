use super::*;
use crate::types::HttpVersion;

/// What of a policy may change from one configuration to the next.
struct Parts {
    files: Files,
    ca: Ca,
    other: Ca,
    own: Pair,
    renewed: Pair,
}

impl Parts {
    fn new() -> Self {
        let (ca, other) = (Ca::new("ca"), Ca::new("other"));
        let names = &["a.test", "b.test", "c.test"];
        let (own, renewed) = (ca.server(names), ca.server(names));
        Self { files: Files::new(), ca, other, own, renewed }
    }

    /// Written anew each time: what counts is what files hold.
    fn certificate(&self) -> CertificateFiles {
        self.files.pair(&self.own)
    }

    fn required(&self) -> ClientAuth {
        ClientAuth::Required { ca: self.files.write(&self.ca.pem) }
    }

    /// A default policy, and one for b.test with client certificates.
    fn tls(&self) -> ListenerTls {
        ListenerTls {
            default: policy(vec![self.certificate()], ClientAuth::None),
            policies: vec![for_hosts(&["b.test"], policy(Vec::new(), self.required()))],
        }
    }

    /// The policies after a change.
    fn after(&self, before: &ServerPolicies, change: impl FnOnce(&mut ListenerTls)) -> Arc<ServerPolicies> {
        self.after_with(before, BOTH, change)
    }

    fn after_with(
        &self,
        before: &ServerPolicies,
        protocols: Protocols,
        change: impl FnOnce(&mut ListenerTls),
    ) -> Arc<ServerPolicies> {
        let mut tls = self.tls();
        change(&mut tls);
        let mut report = Report::default();
        let built = ServerPolicies::build(&tls, protocols, Some(before), &mut report);
        Arc::new(built.unwrap_or_else(|| panic!("{:?}", report.problems)))
    }
}

/// Whether the policies for a.test and for b.test are the same ones, tickets and sessions included.
fn kept(before: &ServerPolicies, after: &ServerPolicies) -> (bool, bool) {
    let same = |name| Arc::ptr_eq(before.config(before.select(Some(name))), after.config(after.select(Some(name))));
    (same("a.test"), same("b.test"))
}

#[test]
fn a_policy_that_has_changed_in_nothing_is_kept_and_any_change_makes_another() {
    let parts = Parts::new();
    let before = build(&parts.tls());
    let both = |change: &dyn Fn(&mut ListenerTls)| kept(&before, &parts.after(&before, |tls| change(tls)));
    assert_eq!(both(&|_| {}), (true, true));
    assert!(parts.after(&before, |_| {}).is_kept_from(&before));
    let renewed = parts.files.pair(&parts.renewed);
    assert_eq!(both(&|tls| tls.default.certificates = vec![renewed.clone()]), (false, false), "both show it");
    let more = vec![parts.certificate(), renewed.clone()];
    assert_eq!(both(&|tls| tls.default.certificates = more.clone()), (false, false));
    assert_eq!(both(&|tls| tls.default.min_version = TlsVersion::Tls13), (false, true));
    let other = parts.files.write(&parts.other.pem);
    let optional = |ca: &Located<PathBuf>| ClientAuth::Optional { ca: ca.clone() };
    let same_ca = parts.files.write(&parts.ca.pem);
    assert_eq!(both(&|tls| tls.policies[0].client_auth = ClientAuth::Required { ca: other.clone() }), (true, false));
    assert_eq!(both(&|tls| tls.policies[0].client_auth = optional(&same_ca)), (true, false));
    assert_eq!(both(&|tls| tls.policies[0].client_auth = ClientAuth::None), (true, false));
    let two = parts.files.write(format!("{}{}", parts.ca.pem, parts.other.pem));
    let turned = parts.files.write(format!("{}{}", parts.other.pem, parts.ca.pem));
    let with_two = parts.after(&before, |tls| tls.policies[0].client_auth = ClientAuth::Required { ca: two });
    assert_eq!(kept(&before, &with_two), (true, false));
    let again = parts.after(&with_two, |tls| tls.policies[0].client_auth = ClientAuth::Required { ca: turned });
    assert_eq!(kept(&with_two, &again), (true, true), "CAs have no order");
    let wider = parts.after(&before, |tls| tls.policies[0] = for_hosts(&["b.test", "c.test"], tls.policies[0].clone()));
    assert_eq!(kept(&before, &wider), (true, false), "a ticket for b.test must not be one for c.test");
    let h1 = Protocols { http1: true, http2: false };
    assert_eq!(kept(&before, &parts.after_with(&before, h1, |_| {})), (false, false));
    // Another one comes first: which place a policy has does not matter.
    let moved = parts.after(&before, |tls| {
        tls.policies.insert(0, for_hosts(&["c.test"], policy(Vec::new(), ClientAuth::None)));
    });
    assert_eq!(kept(&before, &moved), (true, true));
    assert!(!moved.is_kept_from(&before) && !before.is_kept_from(&moved));
    // The policies of two names that change places change what each name has to prove.
    let swapped = parts.after(&before, |tls| {
        tls.policies = vec![for_hosts(&["a.test"], policy(Vec::new(), parts.required()))];
    });
    assert_eq!(kept(&before, &swapped), (false, false));
}

#[tokio::test]
async fn tickets_outlive_a_reload_with_their_policy_and_end_with_any_change_of_it() {
    let parts = Parts::new();
    let before = build(&parts.tls());
    let same = parts.after(&before, |_| {});
    let renewed = parts.files.pair(&parts.renewed);
    let changed = parts.after(&same, |tls| tls.default.certificates = vec![renewed]);
    for version in [&TLS13, &TLS12] {
        let nobody = Arc::new(parts.ca.client_of_version(None, &[], &[version]));
        let identity = parts.ca.client("x", |_| {});
        let somebody = Arc::new(parts.ca.client_of_version(Some(&identity), &[], &[version]));
        for (name, config) in [("a.test", &nobody), ("b.test", &somebody)] {
            let mut resumed = Vec::new();
            for policies in [&before, &same, &same, &changed, &changed, &before] {
                let (accepted, client) = meet(policies, config, name).await;
                let mut accepted = accepted.expect("agreed");
                talk(&mut accepted, &mut client.expect("agreed")).await;
                assert_eq!(accepted.info.client_certificate.is_some(), name == "b.test");
                assert!(policies.admit(&accepted.info, Some(name)));
                resumed.push(accepted.info.resumed);
            }
            assert_eq!(resumed, [false, true, true, false, true, false], "{name} {version:?}");
        }
    }
}

fn info(sni: Option<&str>, version: &'static str, anchors: Option<Anchors>, shows: bool) -> TlsInfo {
    let client_certificate = shows.then(|| VerifiedClient { subject: "CN=x".into(), fingerprint: "".into() });
    TlsInfo {
        sni: sni.map(Into::into),
        alpn: HttpVersion::Http1,
        anchors,
        client_certificate,
        version,
        cipher: "",
        key_exchange: "",
        resumed: false,
    }
}

#[test]
fn a_connection_of_before_is_let_in_only_with_what_is_asked_for_now() {
    let parts = Parts::new();
    let ca = |parts: &Parts| parts.files.write(&parts.ca.pem);
    let build_for = |default: ClientAuth| {
        build(&ListenerTls { default: policy(vec![parts.certificate()], default), policies: Vec::new() })
    };
    let none = build_for(ClientAuth::None);
    let optional = build_for(ClientAuth::Optional { ca: ca(&parts) });
    let required = build_for(ClientAuth::Required { ca: ca(&parts) });
    let others = build_for(ClientAuth::Required { ca: parts.files.write(&parts.other.pem) });
    let anchors = required.anchors(PolicyId::DEFAULT);
    assert!(anchors.is_some() && anchors == optional.anchors(PolicyId::DEFAULT));
    let of = |anchors: &Option<Anchors>, shows| info(Some("a.test"), "TLSv1.3", anchors.clone(), shows);
    let (never_asked, asked, shown) = (of(&None, false), of(&anchors, false), of(&anchors, true));
    let let_in =
        |policies: &ServerPolicies| [&never_asked, &asked, &shown].map(|info| policies.admit(info, Some("a.test")));
    assert_eq!(let_in(&none), [true, false, false], "a certificate that nobody would ask for proves nothing");
    assert_eq!(let_in(&optional), [false, true, true]);
    assert_eq!(let_in(&required), [false, false, true]);
    assert_eq!(let_in(&others), [false, false, false]);

    let mut strict = policy(vec![parts.certificate()], ClientAuth::None);
    strict.min_version = TlsVersion::Tls13;
    let strict = build(&ListenerTls { default: strict, policies: Vec::new() });
    for (version, good) in [("TLSv1.3", true), ("TLSv1.2", false), ("", false)] {
        assert_eq!(strict.admit(&info(None, version, None, false), None), good, "{version}");
        assert!(none.admit(&info(None, version, None, false), None));
    }
}

#[test]
fn a_host_is_asked_for_on_a_connection_whose_name_belongs_to_the_same_policy_now() {
    let parts = Parts::new();
    let policies = build(&parts.tls());
    let anchors = policies.anchors(policies.select(Some("b.test")));
    let open = |sni| info(sni, "TLSv1.3", None, false);
    let closed = info(Some("b.test"), "TLSv1.3", anchors, true);
    for (info, host, good) in [
        (&open(Some("a.test")), Some("a.test"), true),
        (&open(Some("a.test")), Some("c.test"), true),
        (&open(Some("a.test")), Some("b.test"), false),
        (&open(None), Some("b.test"), false),
        (&open(None), Some("a.test"), true),
        (&open(None), None, true),
        // Made when b.test was like any other.
        (&open(Some("b.test")), Some("b.test"), false),
        (&open(Some("b.test")), Some("a.test"), false),
        (&open(Some("b.test")), None, false),
        (&closed, Some("b.test"), true),
        (&closed, Some("B.TEST."), true),
        (&closed, Some("a.test"), false),
    ] {
        assert_eq!(policies.admit(info, host), good, "{:?} {host:?}", info.sni);
    }
    let same = parts.after(&policies, |_| {});
    assert!(policies.ask_the_same(&same));
    let renewed = parts.files.pair(&parts.renewed);
    assert!(policies.ask_the_same(&parts.after(&policies, |tls| tls.default.certificates = vec![renewed])));
    assert!(!policies.ask_the_same(&parts.after(&policies, |tls| tls.policies.clear())));
}
