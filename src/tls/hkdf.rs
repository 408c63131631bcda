//! HKDF for TLS 1.3 (RFC 5869; RFC 8446 7.1) in which a key is hashed once, however often it is used.
//!
//! rustls' key schedule over aws-lc-rs repeats the extraction with every secret that is expanded from it, and hashes
//! the key anew for each: half of all hashing in a TLS handshake. Here rustls' own HKDF runs over aws-lc's HMAC, whose
//! key keeps the state after its first blocks. The primitives are the same, and so is every byte that comes out.
//! TLS 1.2 has no HKDF.

use aws_lc_rs::hmac;
use rustls::crypto::aws_lc_rs::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::crypto::hmac::{Hmac, Key, Tag};
use rustls::crypto::tls13::{Hkdf, HkdfUsingHmac};
use rustls::{CipherSuiteCommon, SupportedCipherSuite, Tls13CipherSuite};

static SHA256: HkdfUsingHmac<'static> = HkdfUsingHmac(&AwsLcHmac(hmac::HMAC_SHA256));
static SHA384: HkdfUsingHmac<'static> = HkdfUsingHmac(&AwsLcHmac(hmac::HMAC_SHA384));

static AES_256: Tls13CipherSuite = with_hkdf(&TLS13_AES_256_GCM_SHA384, &SHA384);
static AES_128: Tls13CipherSuite = with_hkdf(&TLS13_AES_128_GCM_SHA256, &SHA256);
static CHACHA20: Tls13CipherSuite = with_hkdf(&TLS13_CHACHA20_POLY1305_SHA256, &SHA256);

/// Messages up to this length (every label of TLS 1.3 with its context) are put together for one call.
const GATHERED: usize = 256;

/// The same suites in the same order, those of TLS 1.3 over the HKDF of this module.
pub(super) fn with_kept_keys(suites: &[SupportedCipherSuite]) -> Vec<SupportedCipherSuite> {
    let ours = [&AES_256, &AES_128, &CHACHA20];
    suites
        .iter()
        .map(|theirs| match ours.iter().find(|suite| suite.common.suite == theirs.suite()) {
            Some(suite) => SupportedCipherSuite::Tls13(suite),
            None => *theirs,
        })
        .collect()
}

const fn with_hkdf(suite: &SupportedCipherSuite, hkdf: &'static dyn Hkdf) -> Tls13CipherSuite {
    let SupportedCipherSuite::Tls13(suite) = suite else { panic!("not a suite of TLS 1.3") };
    let common = CipherSuiteCommon {
        suite: suite.common.suite,
        hash_provider: suite.common.hash_provider,
        confidentiality_limit: suite.common.confidentiality_limit,
    };
    Tls13CipherSuite { common, hkdf_provider: hkdf, aead_alg: suite.aead_alg, quic: suite.quic }
}

struct AwsLcHmac(hmac::Algorithm);

impl Hmac for AwsLcHmac {
    fn with_key(&self, key: &[u8]) -> Box<dyn Key> {
        Box::new(HashedKey(hmac::Key::new(self.0, key)))
    }

    fn hash_output_len(&self) -> usize {
        self.0.digest_algorithm().output_len
    }
}

struct HashedKey(hmac::Key);

impl Key for HashedKey {
    fn sign_concat(&self, first: &[u8], middle: &[&[u8]], last: &[u8]) -> Tag {
        let mut message = Gathered { bytes: [0; GATHERED], length: 0 };
        let parts = || std::iter::once(first).chain(middle.iter().copied()).chain(std::iter::once(last));
        let tag = if parts().all(|part| message.take(part)) {
            hmac::sign(&self.0, &message.bytes[..message.length])
        } else {
            let mut context = hmac::Context::with_key(&self.0);
            parts().for_each(|part| context.update(part));
            context.sign()
        };
        Tag::new(tag.as_ref())
    }

    fn tag_len(&self) -> usize {
        self.0.algorithm().digest_algorithm().output_len
    }
}

struct Gathered {
    bytes: [u8; GATHERED],
    length: usize,
}

impl Gathered {
    /// `false`: no room.
    fn take(&mut self, part: &[u8]) -> bool {
        let end = self.length + part.len();
        let Some(room) = self.bytes.get_mut(self.length..end) else { return false };
        room.copy_from_slice(part);
        self.length = end;
        true
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES;
    use rustls::crypto::tls13::OkmBlock;

    use super::*;

    fn tls13(suite: &SupportedCipherSuite) -> Option<&'static Tls13CipherSuite> {
        match suite {
            SupportedCipherSuite::Tls13(suite) => Some(suite),
            SupportedCipherSuite::Tls12(_) => None,
        }
    }

    #[test]
    fn all_suites_stay_in_their_order_and_every_one_of_tls_1_3_has_kept_keys() {
        let ours = with_kept_keys(ALL_CIPHER_SUITES);
        let names =
            |suites: &[SupportedCipherSuite]| suites.iter().map(SupportedCipherSuite::suite).collect::<Vec<_>>();
        assert_eq!(names(&ours), names(ALL_CIPHER_SUITES));
        for suite in ours.iter().filter_map(tls13) {
            assert!([&AES_256, &AES_128, &CHACHA20].iter().any(|kept| std::ptr::eq(*kept, suite)), "{suite:?}");
        }
    }

    /// RFC 5869, with the provider's own HKDF as the reference.
    #[test]
    fn every_byte_is_that_of_the_providers_own_hkdf() {
        let bytes: Vec<u8> = (0..=255).cycle().take(700).collect();
        let theirs = ALL_CIPHER_SUITES.iter().filter_map(tls13);
        let ours = with_kept_keys(ALL_CIPHER_SUITES);
        for (theirs, ours) in theirs.zip(ours.iter().filter_map(tls13)) {
            let (theirs, ours) = (theirs.hkdf_provider, ours.hkdf_provider);
            let length = ours.expander_for_okm(&OkmBlock::new(&bytes[..32])).hash_len();
            let okm = OkmBlock::new(&bytes[..length]);
            for salt in [None, Some(&bytes[..0]), Some(&bytes[..length]), Some(&bytes[3..200])] {
                for secret in [&bytes[..0], &bytes[..32], &bytes[..300]] {
                    let pairs = [
                        (theirs.extract_from_zero_ikm(salt), ours.extract_from_zero_ikm(salt)),
                        (theirs.extract_from_secret(salt, secret), ours.extract_from_secret(salt, secret)),
                        (theirs.expander_for_okm(&okm), ours.expander_for_okm(&okm)),
                    ];
                    for (theirs, ours) in pairs {
                        for info in [&[][..], &[&bytes[..18], &bytes[5..37]], &[&bytes[..255]], &[&bytes[..256], b"x"]]
                        {
                            assert_eq!(theirs.expand_block(info).as_ref(), ours.expand_block(info).as_ref());
                            let (mut one, mut other) = ([0; 130], [0; 130]);
                            theirs.expand_slice(info, &mut one).expect("not too long");
                            ours.expand_slice(info, &mut other).expect("not too long");
                            assert_eq!(one, other);
                        }
                    }
                }
            }
            for message in [&bytes[..0], &bytes[..64], &bytes[..]] {
                assert_eq!(theirs.hmac_sign(&okm, message).as_ref(), ours.hmac_sign(&okm, message).as_ref());
            }
            let mut long = vec![0; 255 * length + 1];
            assert!(ours.expander_for_okm(&okm).expand_slice(&[], &mut long).is_err());
        }
    }
}
