//! Random bytes for masks, payloads of pings, and jitter.

pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // A simulation must be able to run again as it did.
    #[cfg(test)]
    if super::tests::simulation::foreseen(&mut bytes) {
        return bytes;
    }
    aws_lc_rs::rand::fill(&mut bytes).expect("AWS-LC ends the process rather than run out of random bytes");
    bytes
}
