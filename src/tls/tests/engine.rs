//! The engine without IO: records in pieces, records that no client of ours would send, and what is kept of them.

use std::io::{ErrorKind, IoSlice, Read, Write};

use ::aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::{ClientConnection, ConnectionTrafficSecrets, Error, PeerMisbehaved, SupportedProtocolVersion};
use tokio::io::ReadBuf;

use super::super::engine::{Engine, INPUT, OUTPUT, RECORD};
use super::*;

const DATA: u8 = 23;
const ALERT: u8 = 21;
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

/// An engine and the client of a finished TLS handshake with it, and the ClientHello's first record.
fn pair(version: &'static SupportedProtocolVersion) -> (Engine, ClientConnection, Vec<u8>) {
    let ca = Ca::new("ca");
    let (_files, policies) = simple(&ca);
    let mut config = ca.client_of_version(None, &[], &[version]);
    config.enable_secret_extraction = true;
    let mut engine = Engine::new(Arc::clone(policies.config(PolicyId::DEFAULT))).expect("an engine");
    let mut client = ClientConnection::new(Arc::new(config), "a.test".try_into().expect("a name")).expect("a client");
    let hello = ciphertext(&mut client);
    feed(&mut engine, &hello);
    while client.is_handshaking() || engine.common().is_handshaking() || !engine.unsent().is_empty() {
        answer(&mut engine, &mut client).expect("a good answer");
        // Byte by byte: wherever a message is cut, it is put together again.
        for byte in ciphertext(&mut client) {
            feed(&mut engine, &[byte]);
            assert!(engine.failed().is_none(), "{:?}", engine.failed());
        }
    }
    assert_eq!(engine.stored(), 0, "nothing of the TLS handshake is left");
    (engine, client, hello)
}

fn ciphertext(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).expect("memory");
    }
    bytes
}

/// Gives the client what the engine has to send.
fn answer(engine: &mut Engine, client: &mut ClientConnection) -> Result<(), Error> {
    let bytes = engine.unsent().to_vec();
    engine.mark_sent(bytes.len());
    show(client, &bytes)
}

fn show(client: &mut ClientConnection, mut bytes: &[u8]) -> Result<(), Error> {
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).expect("room");
        client.process_new_packets()?;
    }
    Ok(())
}

/// Input as from a socket; the plaintext that came of it.
fn feed_for(engine: &mut Engine, input: &[u8], room: usize) -> Vec<u8> {
    let held = engine.held();
    let mut scratch = vec![0xAA; held + input.len()];
    scratch[held..].copy_from_slice(input);
    let mut out = vec![0; room];
    let mut out = ReadBuf::new(&mut out);
    engine.receive(&mut scratch, &mut out);
    out.filled().to_vec()
}

fn feed(engine: &mut Engine, input: &[u8]) -> Vec<u8> {
    feed_for(engine, input, INPUT)
}

fn seal(engine: &mut Engine, slices: &[&[u8]]) -> std::io::Result<(usize, Vec<u8>)> {
    let (mut out, mut gather) = (vec![0; OUTPUT], vec![0; RECORD]);
    let slices: Vec<_> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
    let sealed = engine.seal(&slices, &mut out, &mut gather)?;
    out.truncate(sealed.length);
    Ok((sealed.accepted, out))
}

/// What the engine seals comes out at the client.
fn assert_speaks(engine: &mut Engine, client: &mut ClientConnection) {
    let (accepted, bytes) = seal(engine, &[b"still here"]).expect("sealed");
    assert_eq!(accepted, 10);
    show(client, &bytes).expect("good records");
    let mut text = [0; 10];
    client.reader().read_exact(&mut text).expect("arrived");
    assert_eq!(&text, b"still here");
}

/// Makes the records of a client that has given up its connection to it.
struct Forger {
    tls13: bool,
    key: LessSafeKey,
    iv: Vec<u8>,
    sequence: u64,
}

impl Forger {
    fn new(client: ClientConnection) -> Self {
        let tls13 = client.protocol_version() == Some(rustls::ProtocolVersion::TLSv1_3);
        let (sequence, secrets) = client.dangerous_extract_secrets().expect("allowed").tx;
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            other => panic!("not for these tests: {}", std::any::type_name_of_val(other)),
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).expect("a key"));
        Self { tls13, key, iv: iv.as_ref().to_vec(), sequence }
    }

    fn record(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let sequence = self.sequence.to_be_bytes();
        self.sequence += 1;
        let mut nonce = [0; 12];
        nonce.copy_from_slice(&self.iv);
        let mut sealed = content.to_vec();
        if self.tls13 {
            nonce[4..].iter_mut().zip(sequence).for_each(|(byte, mask)| *byte ^= mask);
            sealed.push(kind);
            let length = u16::try_from(sealed.len() + 16).expect("short").to_be_bytes();
            let header = [DATA, 3, 3, length[0], length[1]];
            let nonce = Nonce::assume_unique_for_key(nonce);
            self.key.seal_in_place_append_tag(nonce, Aad::from(header), &mut sealed).expect("sealed");
            [&header[..], &sealed].concat()
        } else {
            nonce[4..].copy_from_slice(&sequence);
            let plain = u16::try_from(content.len()).expect("short").to_be_bytes();
            let aad = [&sequence[..], &[kind, 3, 3], &plain].concat();
            let nonce = Nonce::assume_unique_for_key(nonce);
            self.key.seal_in_place_append_tag(nonce, Aad::from(aad), &mut sealed).expect("sealed");
            let length = u16::try_from(8 + sealed.len()).expect("short").to_be_bytes();
            [&[kind, 3, 3, length[0], length[1]][..], &sequence, &sealed].concat()
        }
    }
}

fn misbehaved(engine: &Engine) -> PeerMisbehaved {
    let error = engine.failed().expect("a failure");
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(Error::PeerMisbehaved(what)) => what.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stream_of_full_records_is_read_without_keeping_parts_of_them() {
    let (mut engine, mut client, _) = pair(&rustls::version::TLS13);
    client.set_buffer_limit(None);
    client.writer().write_all(&vec![7; 8 * RECORD]).expect("memory");
    let bytes = ciphertext(&mut client);
    assert_eq!(bytes.len(), 2 * INPUT);
    for read in bytes.chunks(INPUT) {
        assert_eq!(feed_for(&mut engine, read, 4 * RECORD).len(), 4 * RECORD);
        assert_eq!(engine.stored(), 0);
    }
}

#[test]
fn records_may_be_cut_anywhere_and_nothing_is_kept_of_whole_ones() {
    for version in [&TLS13, &TLS12] {
        let (mut engine, mut client, _) = pair(version);
        for cut in 0..200 {
            client.writer().write_all(b"first").expect("room");
            if version == &TLS13 && cut % 7 == 0 {
                // The answer is due before our next data; without data between them the 33rd would be refused.
                client.refresh_traffic_keys().expect("allowed");
            }
            client.writer().write_all(&[7; 80]).expect("room");
            let bytes = ciphertext(&mut client);
            let (before, after) = bytes.split_at(cut.min(bytes.len()));
            let mut text = feed(&mut engine, before);
            assert!(engine.stored() <= before.len(), "no more than was sent, whatever the header promises");
            // Writing in between leaves the part of a record as it is.
            assert_speaks(&mut engine, &mut client);
            text.extend(feed(&mut engine, after));
            assert_eq!(text, [&b"first"[..], &[7; 80]].concat(), "{cut}");
            assert_eq!(engine.stored(), 0);
        }
    }
}

#[test]
fn plaintext_without_room_waits_and_is_freed_when_taken() {
    let (mut engine, mut client, _) = pair(&TLS13);
    let sent: Vec<u8> = (0..3000).map(|n| n as u8).collect();
    client.writer().write_all(&sent).expect("room");
    let mut text = feed_for(&mut engine, &ciphertext(&mut client), 1000);
    assert_eq!((text.len(), engine.stored()), (1000, 2000));
    let mut room = [0; 700];
    loop {
        let mut out = ReadBuf::new(&mut room);
        if !engine.take_plaintext(&mut out) {
            break;
        }
        text.extend(out.filled());
    }
    assert_eq!(text, sent);
    assert_eq!(engine.stored(), 0);
}

#[test]
fn slices_share_records_and_a_batch_is_four() {
    let (mut engine, mut client, _) = pair(&TLS13);
    let slices: [&[u8]; 4] = [b"head", b"", b"body", &[1; 3 * RECORD]];
    let (accepted, bytes) = seal(&mut engine, &slices).expect("sealed");
    assert_eq!((accepted, bytes.len()), (8 + 3 * RECORD, 8 + 3 * RECORD + 4 * 22), "as few records as can be");
    let mut text = Vec::new();
    for part in bytes.chunks(4096) {
        show(&mut client, part).expect("good records");
        // Ends with an error when there is no more for now.
        let _ = client.reader().read_to_end(&mut text);
    }
    assert_eq!(text, slices.concat());
    let (accepted, _) = seal(&mut engine, &[&[1; 5 * RECORD]]).expect("sealed");
    assert_eq!(accepted, 4 * RECORD);
    let (accepted, bytes) = seal(&mut engine, &[b"", b""]).expect("nothing");
    assert_eq!((accepted, bytes.len()), (0, 0), "no empty records");
}

#[test]
fn close_notify_ends_reading_behind_the_data_and_what_follows_is_ignored() {
    for version in [&TLS13, &TLS12] {
        let (mut engine, mut client, _) = pair(version);
        client.writer().write_all(b"last").expect("room");
        client.send_close_notify();
        let mut bytes = ciphertext(&mut client);
        bytes.extend([0xFF; 100]);
        assert_eq!(feed(&mut engine, &bytes), b"last");
        engine.end().expect("over").expect("well");
        assert_eq!(engine.stored(), 0);
        assert_speaks(&mut engine, &mut client);
        engine.close();
        engine.close();
        answer(&mut engine, &mut client).expect("close_notify");
        assert_eq!(client.reader().read(&mut [0]).expect("an end"), 0);
        let refused = seal(&mut engine, &[b"x"]).expect_err("closed");
        assert_eq!(refused.kind(), ErrorKind::BrokenPipe);
    }
}

#[test]
fn data_before_a_broken_record_is_still_delivered_and_the_client_gets_the_alert() {
    for version in [&TLS13, &TLS12] {
        let (mut engine, mut client, _) = pair(version);
        client.writer().write_all(b"good").expect("room");
        let mut bytes = ciphertext(&mut client);
        client.writer().write_all(b"evil").expect("room");
        let at = bytes.len();
        bytes.extend(ciphertext(&mut client));
        bytes[at + 15] ^= 1;
        assert_eq!(feed(&mut engine, &bytes), b"good");
        let failure = engine.end().expect("over").expect_err("badly");
        assert_eq!(failure.get_ref().and_then(|inner| inner.downcast_ref()), Some(&Error::DecryptError));
        assert_eq!(seal(&mut engine, &[b"x"]).expect_err("over").kind(), ErrorKind::InvalidData);
        engine.close();
        let told = answer(&mut engine, &mut client).expect_err("an alert and nothing more");
        assert_eq!(told, Error::AlertReceived(rustls::AlertDescription::BadRecordMac));
    }
}

#[test]
fn endless_empty_records_end_the_connection() {
    for version in [&TLS13, &TLS12] {
        let (mut engine, client, _) = pair(version);
        let mut forger = Forger::new(client);
        assert_eq!(feed(&mut engine, &forger.record(DATA, b"data")), b"data", "the forger's records are good");
        for _ in 0..32 {
            assert_eq!(feed(&mut engine, &forger.record(DATA, b"")), b"");
            assert!(engine.end().is_none(), "{:?}", engine.failed());
        }
        feed(&mut engine, &forger.record(DATA, b""));
        assert_eq!(misbehaved(&engine), PeerMisbehaved::TooManyEmptyFragments);
    }
}

#[test]
fn endless_key_updates_and_warnings_end_the_connection() {
    let (mut engine, mut client, _) = pair(&TLS13);
    for _ in 0..32 {
        client.refresh_traffic_keys().expect("allowed");
        feed(&mut engine, &ciphertext(&mut client));
        assert!(engine.failed().is_none());
    }
    assert_speaks(&mut engine, &mut client);
    client.refresh_traffic_keys().expect("allowed");
    feed(&mut engine, &ciphertext(&mut client));
    assert_eq!(misbehaved(&engine), PeerMisbehaved::TooManyKeyUpdateRequests);

    for version in [&TLS13, &TLS12] {
        let (mut engine, client, _) = pair(version);
        let mut forger = Forger::new(client);
        // Warning, user_canceled.
        for _ in 0..4 {
            feed(&mut engine, &forger.record(ALERT, &[1, 90]));
            assert!(engine.failed().is_none());
        }
        feed(&mut engine, &forger.record(ALERT, &[1, 90]));
        assert_eq!(misbehaved(&engine), PeerMisbehaved::TooManyWarningAlertsReceived);
    }
}

#[test]
fn a_renegotiation_is_declined_once_and_then_ends_the_connection() {
    let (mut engine, client, hello) = pair(&TLS12);
    let mut forger = Forger::new(client);
    feed(&mut engine, &forger.record(HANDSHAKE, &hello[5..]));
    assert!(engine.failed().is_none());
    assert_eq!(engine.unsent()[0], ALERT, "no_renegotiation");
    engine.mark_sent(engine.unsent().len());
    feed(&mut engine, &forger.record(HANDSHAKE, &hello[5..]));
    assert_eq!(misbehaved(&engine), PeerMisbehaved::TooManyRenegotiationRequests);
}

const HANDSHAKE: u8 = 22;

/// rustls keeps positions in the buffer while a message is in parts: showing it another one would be out of bounds.
#[test]
fn writing_while_a_handshake_message_is_in_parts_leaves_it_intact() {
    let (mut engine, client, _) = pair(&TLS13);
    let mut forger = Forger::new(client);
    let first = forger.record(HANDSHAKE, &KEY_UPDATE[..3]);
    for part in [&first[..9], &first[9..]] {
        feed(&mut engine, part);
        assert!(seal(&mut engine, &[b"in between"]).expect("sealed").1.len() > 10);
    }
    assert!(engine.held() > 0 && engine.failed().is_none());
    feed(&mut engine, &forger.record(HANDSHAKE, &KEY_UPDATE[3..]));
    assert!(engine.failed().is_none(), "{:?}", engine.failed());
    assert_eq!(engine.stored(), 0);

    let (mut engine, client, _) = pair(&TLS13);
    let mut forger = Forger::new(client);
    feed(&mut engine, &forger.record(HANDSHAKE, &KEY_UPDATE[..3]));
    engine.receive_end();
    assert_eq!(engine.end().expect("over").expect_err("badly").kind(), ErrorKind::UnexpectedEof);
    seal(&mut engine, &[b"half-closed"]).expect("may still speak");
    engine.close();
    assert!(!engine.unsent().is_empty(), "close_notify");
}

#[test]
fn a_message_in_endless_parts_is_refused_when_64_kib_are_held() {
    let (mut engine, client, _) = pair(&TLS12);
    let mut forger = Forger::new(client);
    // A message of 65,000 bytes, one byte in each record.
    let mut parts = [1, 0, 0xFD, 0xE8].into_iter().chain(std::iter::repeat(0));
    for _ in 0..INPUT / 20 {
        if engine.failed().is_some() {
            break;
        }
        let mut input = forger.record(HANDSHAKE, &[parts.next().expect("endless")]);
        input.truncate(INPUT - engine.held());
        feed(&mut engine, &input);
        assert!(engine.stored() < INPUT + 64);
    }
    assert!(engine.failed().is_some());
    assert_eq!(engine.stored(), 0);
}
