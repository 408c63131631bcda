//! The lower bound of a TLS handshake: rustls against rustls in memory, where only the server's share is timed.
//!
//! Full handshakes, TLS 1.3, P-256 certificate, X25519 or the hybrid, AES-128-GCM, ALPN, the two tickets that rustls sends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::json;

use crate::args::{Args, Problem};
use crate::dial;

pub fn run(args: &mut Args) -> Result<(), Problem> {
    let directory: String = args.required("certs")?;
    let count: u32 = args.or("count", 1000)?;
    let kx: String = args.or("kx", "x25519".to_owned())?;
    args.done()?;
    let (client, server) = configs(&directory, kx == "hybrid")?;
    let mut costs = Vec::with_capacity(count as usize);
    for _ in 0..count {
        costs.push(one(&client, &server)?);
    }
    costs.sort_unstable();
    let mean = costs.iter().sum::<Duration>().as_secs_f64() * 1e6 / f64::from(count);
    let median = costs[costs.len() / 2].as_secs_f64() * 1e6;
    println!("{}", json!({ "units": count, "mean_us": mean, "cpu_us_per_unit": median }));
    Ok(())
}

fn configs(directory: &str, hybrid: bool) -> Result<(Arc<ClientConfig>, Arc<ServerConfig>), Problem> {
    let provider = Arc::new(dial::provider(hybrid));
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(format!("{directory}/ca.pem"))?)?;
    let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.resumption = Resumption::disabled();
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    let chain = vec![CertificateDer::from_pem_file(format!("{directory}/leaf.pem"))?];
    let key = PrivateKeyDer::from_pem_file(format!("{directory}/leaf.key"))?;
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    server.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((Arc::new(client), Arc::new(server)))
}

/// The server's time for one handshake. Its construction counts: a proxy pays it as well.
fn one(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Result<Duration, Problem> {
    let mut client = ClientConnection::new(Arc::clone(client), ServerName::try_from("localhost")?)?;
    let mut began = Instant::now();
    let mut server = ServerConnection::new(Arc::clone(server))?;
    let mut spent = began.elapsed();
    let mut wire = Vec::with_capacity(8192);
    while client.is_handshaking() || server.is_handshaking() {
        wire.clear();
        while client.wants_write() {
            client.write_tls(&mut wire)?;
        }
        let mut input = wire.as_slice();
        began = Instant::now();
        while !input.is_empty() {
            server.read_tls(&mut input)?;
            server.process_new_packets()?;
        }
        let mut output = Vec::with_capacity(4096);
        while server.wants_write() {
            server.write_tls(&mut output)?;
        }
        spent += began.elapsed();
        let mut output = output.as_slice();
        while !output.is_empty() {
            client.read_tls(&mut output)?;
            client.process_new_packets()?;
        }
    }
    Ok(spent)
}
