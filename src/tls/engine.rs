//! TLS records in and out of a server's connection, without IO.
//!
//! rustls' unbuffered connection decrypts in a buffer of the caller's and encrypts into one; this adds what it leaves to
//! the caller: which bytes must be kept between two calls, and nothing more. While a connection is silent all three
//! stores are empty and own no memory.
//!
//! Invariant: [`Engine::receive`] processes everything that can be processed, so that `incoming` holds an incomplete
//! record (or an incomplete message of a TLS handshake, of which rustls keeps positions) and may be shown to rustls
//! again, unchanged, whenever something is to be written. rustls would index out of an emptied buffer otherwise.
//! After an error rustls is asked for nothing but the alert that it has prepared.
//! RFC 8446 5 (records), 6.1 (closure); RFC 5246 6.2, 7.2.1.

use std::io::{self, ErrorKind, IoSlice};
use std::sync::Arc;

use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{CommonState, Error, InvalidMessage, ServerConfig};
use tokio::io::ReadBuf;

/// Plaintext of a full record (RFC 8446 5.1).
pub(super) const RECORD: usize = 16 * 1024;
/// The longest record on the wire: TLS 1.2 allows 2048 bytes of expansion, and the header has 5.
pub(super) const WIRE_RECORD: usize = RECORD + 2048 + 5;
/// Records of one write, and of one read of a stream that consists of full ones.
const BATCH: usize = 4;
/// Ciphertext looked at in one go: so much that full records of TLS 1.3, with 22 bytes around each, end where it ends,
/// and no part of one has to be kept and copied twice. Also the bound of `incoming`: a message of a TLS handshake in
/// very many records.
pub(super) const INPUT: usize = BATCH * (RECORD + 22);
/// Room for one batch: each record has up to 29 bytes around it; and for a key update and alerts before it.
pub(super) const OUTPUT: usize = BATCH * (RECORD + 64) + 1024;

/// One server-side TLS connection.
pub(super) struct Engine {
    connection: UnbufferedServerConnection,
    /// Ciphertext that cannot be processed yet.
    incoming: Vec<u8>,
    /// Plaintext for which the reader had no room, and how much of it he has taken since.
    plaintext: Vec<u8>,
    taken: usize,
    /// Ciphertext that the socket has not taken yet, and how much of it has been sent since.
    outgoing: Vec<u8>,
    sent: usize,
    reading: Reading,
    close_sent: bool,
}

/// How far reading has come. Never goes back to `Open`.
#[derive(Debug)]
enum Reading {
    Open,
    /// The peer's close_notify.
    Ended,
    /// FIN without close_notify: what came may not be all.
    Truncated,
    Failed(Box<Error>),
}

/// What one [`Engine::seal`] has done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sealed {
    /// Plaintext taken.
    pub accepted: usize,
    /// Ciphertext made.
    pub length: usize,
}

impl Engine {
    pub fn new(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self {
            connection: UnbufferedServerConnection::new(config)?,
            incoming: Vec::new(),
            plaintext: Vec::new(),
            taken: 0,
            outgoing: Vec::new(),
            sent: 0,
            reading: Reading::Open,
            close_sent: false,
        })
    }

    pub fn common(&self) -> &CommonState {
        &self.connection
    }

    /// Ciphertext kept: the next input goes behind that much room.
    pub fn held(&self) -> usize {
        self.incoming.len()
    }

    /// Bytes in all stores.
    #[cfg(test)]
    pub fn stored(&self) -> usize {
        self.incoming.capacity() + self.plaintext.capacity() + self.outgoing.capacity()
    }

    /// Fills `out` from plaintext that waits; whether there was any.
    pub fn take_plaintext(&mut self, out: &mut ReadBuf<'_>) -> bool {
        if self.plaintext.is_empty() {
            return false;
        }
        let rest = &self.plaintext[self.taken..];
        let count = rest.len().min(out.remaining());
        out.put_slice(&rest[..count]);
        self.taken += count;
        if self.taken == self.plaintext.len() {
            (self.plaintext, self.taken) = (Vec::new(), 0);
        }
        true
    }

    /// What reading gives when no plaintext waits. `None`: it is open, more input may come.
    pub fn end(&self) -> Option<io::Result<()>> {
        match &self.reading {
            Reading::Open => None,
            Reading::Ended => Some(Ok(())),
            Reading::Truncated => Some(Err(io::Error::new(ErrorKind::UnexpectedEof, "FIN without close_notify"))),
            Reading::Failed(error) => Some(Err(failure(error))),
        }
    }

    pub fn failed(&self) -> Option<io::Error> {
        match &self.reading {
            Reading::Failed(error) => Some(failure(error)),
            Reading::Open | Reading::Ended | Reading::Truncated => None,
        }
    }

    /// Takes note of the peer's FIN.
    pub fn receive_end(&mut self) {
        if matches!(self.reading, Reading::Open) {
            self.reading = Reading::Truncated;
        }
    }

    /// Processes `buffer`, whose first [`held`](Self::held) bytes are room for what was kept. Plaintext goes to `out`
    /// and waits where that is full; answers of TLS' own wait to be sent.
    pub fn receive(&mut self, buffer: &mut [u8], out: &mut ReadBuf<'_>) {
        buffer[..self.incoming.len()].copy_from_slice(&self.incoming);
        let rest = match self.process(buffer, out) {
            Ok(processed) => &buffer[processed..],
            Err(error) => {
                self.reading = Reading::Failed(Box::new(error));
                // Nothing may follow close_notify, behind which there may be a FIN already.
                if !self.close_sent {
                    self.take_alerts();
                }
                &[]
            }
        };
        self.incoming = if matches!(self.reading, Reading::Open) { rest.to_vec() } else { Vec::new() };
        if self.incoming.len() >= INPUT {
            // No message that we expect is that long, and there is no room to read on.
            self.reading = Reading::Failed(Box::new(InvalidMessage::HandshakePayloadTooLarge.into()));
            self.incoming = Vec::new();
        }
        self.plaintext.shrink_to_fit();
    }

    /// How much of the buffer is done with.
    fn process(&mut self, buffer: &mut [u8], out: &mut ReadBuf<'_>) -> Result<usize, Error> {
        let mut done = 0;
        loop {
            let UnbufferedStatus { mut discard, state } = self.connection.process_tls_records(&mut buffer[done..]);
            let blocked = match state? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        let now = record.payload.len().min(out.remaining());
                        out.put_slice(&record.payload[..now]);
                        self.plaintext.extend_from_slice(&record.payload[now..]);
                    }
                    false
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    encode(|out| data.encode(out), &mut self.outgoing)?;
                    false
                }
                ConnectionState::TransmitTlsData(data) => {
                    data.done();
                    false
                }
                ConnectionState::PeerClosed => {
                    self.reading = Reading::Ended;
                    false
                }
                ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) | ConnectionState::Closed => true,
                other => return Err(Error::General(format!("unexpected state: {other:?}"))),
            };
            done += discard;
            if blocked {
                return Ok(done);
            }
        }
    }

    /// After an error: what rustls has to say about it waits to be sent.
    fn take_alerts(&mut self) {
        // While this holds, rustls gives its next message without looking at any input.
        while self.connection.wants_write() {
            let Ok(ConnectionState::EncodeTlsData(mut data)) = self.connection.process_tls_records(&mut []).state
            else {
                break;
            };
            if encode(|out| data.encode(out), &mut self.outgoing).is_err() {
                break;
            }
        }
    }

    /// Encrypts up to four records of what the slices hold into `out` (of [`OUTPUT`]), using `gather` (of [`RECORD`])
    /// to put short slices into one record.
    ///
    /// # Errors
    /// Nothing can be written any more; `outgoing` may have got a last alert.
    pub fn seal(&mut self, slices: &[IoSlice<'_>], out: &mut [u8], gather: &mut [u8]) -> io::Result<Sealed> {
        if let Some(error) = self.failed() {
            return Err(error);
        }
        if self.close_sent {
            return Err(io::Error::new(ErrorKind::BrokenPipe, "close_notify has been sent"));
        }
        let mut pieces = Pieces { slices, offset: 0 };
        let mut sealed = Sealed { accepted: 0, length: 0 };
        let used_up = self.with_traffic(|mut traffic, _| {
            for _ in 0..BATCH {
                let piece = pieces.next(gather);
                if piece.is_empty() {
                    break;
                }
                match traffic.encrypt(piece, &mut out[sealed.length..]) {
                    Ok(length) => sealed.length += length,
                    Err(EncryptError::InsufficientSize(_)) => break,
                    Err(EncryptError::EncryptExhausted) => return sealed.accepted == 0,
                }
                sealed.accepted += piece.len();
            }
            false
        });
        match used_up {
            Some(false) => Ok(sealed),
            Some(true) => {
                // TLS 1.2 cannot change its keys: rustls has closed.
                self.take_alerts();
                self.close_sent = true;
                Err(io::Error::new(ErrorKind::BrokenPipe, "the keys are used up"))
            }
            None => Err(io::Error::new(ErrorKind::NotConnected, "not ready for data")),
        }
    }

    /// Lets close_notify wait to be sent, unless that is done or the connection has failed.
    pub fn close(&mut self) {
        if std::mem::replace(&mut self.close_sent, true) || self.failed().is_some() {
            return;
        }
        self.with_traffic(|mut traffic, outgoing| {
            let queue = |out: &mut [u8]| match traffic.queue_close_notify(out) {
                Ok(length) => Ok(length),
                Err(EncryptError::InsufficientSize(size)) => Err(EncodeError::InsufficientSize(size)),
                Err(EncryptError::EncryptExhausted) => Ok(0),
            };
            // Alerts are never refused, however many records have been sent.
            let _ = encode(queue, outgoing);
        });
    }

    /// Lets `work` write. `None`: the TLS handshake is not far enough, or all is over.
    fn with_traffic<R>(
        &mut self,
        work: impl FnOnce(WriteTraffic<'_, ServerConnectionData>, &mut Vec<u8>) -> R,
    ) -> Option<R> {
        loop {
            match self.connection.process_tls_records(&mut self.incoming).state {
                Ok(ConnectionState::WriteTraffic(traffic)) => return Some(work(traffic, &mut self.outgoing)),
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(|out| data.encode(out), &mut self.outgoing).ok()?;
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(_) | Err(_) => return None,
            }
        }
    }

    /// Ciphertext that waits to be sent.
    pub fn unsent(&self) -> &[u8] {
        &self.outgoing[self.sent..]
    }

    /// Moves what waits to the front of `to`, which must have room; how much that was.
    pub fn take_unsent(&mut self, to: &mut [u8]) -> usize {
        let count = self.unsent().len();
        to[..count].copy_from_slice(self.unsent());
        self.mark_sent(count);
        count
    }

    pub fn mark_sent(&mut self, count: usize) {
        self.sent += count;
        if self.sent == self.outgoing.len() {
            (self.outgoing, self.sent) = (Vec::new(), 0);
        }
    }

    /// Lets ciphertext wait to be sent, behind what waits already.
    pub fn keep_unsent(&mut self, ciphertext: &[u8]) {
        self.outgoing.reserve_exact(ciphertext.len());
        self.outgoing.extend_from_slice(ciphertext);
    }
}

/// The plaintext of a write, record by record.
struct Pieces<'a> {
    slices: &'a [IoSlice<'a>],
    /// Of the first slice.
    offset: usize,
}

impl<'a> Pieces<'a> {
    /// The next at most [`RECORD`] bytes, in place or gathered; empty at the end.
    fn next<'g>(&mut self, gather: &'g mut [u8]) -> &'g [u8]
    where
        'a: 'g,
    {
        let first = self.next_part(RECORD);
        if first.len() == RECORD || self.slices.iter().all(|slice| slice.is_empty()) {
            return first;
        }
        let mut length = first.len();
        gather[..length].copy_from_slice(first);
        while length < RECORD {
            let part = self.next_part(RECORD - length);
            if part.is_empty() {
                break;
            }
            gather[length..length + part.len()].copy_from_slice(part);
            length += part.len();
        }
        &gather[..length]
    }

    /// At most `limit` bytes of the first slice that has any left.
    fn next_part(&mut self, limit: usize) -> &'a [u8] {
        while let [first, rest @ ..] = self.slices {
            let part: &'a [u8] = &first[self.offset..];
            if part.len() > limit {
                self.offset += limit;
                return &part[..limit];
            }
            (self.slices, self.offset) = (rest, 0);
            if !part.is_empty() {
                return part;
            }
        }
        &[]
    }
}

/// Appends one message of rustls' own. It asks for the room that it needs.
fn encode(mut write: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>, to: &mut Vec<u8>) -> Result<(), Error> {
    let start = to.len();
    let mut room = 0;
    loop {
        to.resize(start + room, 0);
        match write(&mut to[start..]) {
            Ok(length) => {
                to.truncate(start + length);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(size)) if size.required_size > room => room = size.required_size,
            Err(error) => {
                to.truncate(start);
                return Err(Error::General(error.to_string()));
            }
        }
    }
}

fn failure(error: &Error) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error.clone())
}
