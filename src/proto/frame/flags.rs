//! What a tracker knows with yes or no.

/// One byte for what would take six.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flags(pub u8);

impl Flags {
    /// The sender is the client.
    pub const CLIENT: u8 = 1;
    /// A message has begun and not ended.
    pub const MESSAGE: u8 = 2;
    /// The present message is binary.
    pub const BINARY: u8 = 4;
    /// The present frame is its message's last.
    pub const FIN: u8 = 8;
    /// Nothing goes on any more.
    pub const CLOSED: u8 = 16;
    /// A Close has gone on.
    pub const CLOSE_PASSED: u8 = 32;
    /// A Close was injected: what comes is followed, and thrown away.
    pub const MUTED: u8 = 64;

    #[inline]
    pub fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }

    #[inline]
    pub fn set(&mut self, flag: u8, on: bool) {
        self.0 = if on { self.0 | flag } else { self.0 & !flag };
    }
}
