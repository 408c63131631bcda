//! The ways into the gateway: HTTP/1.1 in the clear, over TLS, and HTTP/2; plain requests and handshakes alike.

use super::{Answer, Client, End, Frame, H2, H2Stream, Handshake, Request, Stage, TlsOptions};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Clear,
    Tls,
    H2,
}

impl Way {
    pub const ALL: [Self; 3] = [Self::Clear, Self::Tls, Self::H2];
    /// Those that carry the client's bytes as they are.
    pub const H1: [Self; 2] = [Self::Clear, Self::Tls];

    /// An HTTP/1.1 connection; not for h2.
    pub async fn client(self, stage: &Stage) -> Client {
        match self {
            Self::Clear => stage.clear().await,
            Self::Tls => stage.tls().await,
            Self::H2 => panic!("h2 has its own client"),
        }
    }

    /// A request on a connection of its own, with the SNI that belongs to its host.
    pub async fn ask(self, stage: &Stage, request: &Request) -> Answer {
        match self {
            Self::Clear => stage.clear().await.ask(request).await,
            Self::Tls => stage.tls_as(&TlsOptions::new(&request.host)).await.ask(request).await,
            Self::H2 => {
                let mut h2 = H2::connect_as(stage, &TlsOptions::new(&request.host), &Default::default()).await;
                h2.ask(request).await
            }
        }
    }

    /// A handshake on a connection of its own; the answer, and the tunnel where one was opened.
    pub async fn open(self, stage: &Stage, handshake: &Handshake) -> (Answer, Option<Tunnel>) {
        if self == Self::H2 {
            let mut h2 = H2::connect_as(stage, &TlsOptions::new(&handshake.host), &Default::default()).await;
            let (answer, stream) = h2.open(handshake).await.expect("an answer");
            return (answer, stream.map(Tunnel::H2));
        }
        let mut client = match self {
            Self::Clear => stage.clear().await,
            _ => stage.tls_as(&TlsOptions::new(&handshake.host)).await,
        };
        client.send(handshake.to_h1()).await;
        let answer = client.answer().await;
        let open = answer.status == 101;
        (answer, open.then_some(Tunnel::H1(client)))
    }

    /// A handshake that must succeed.
    pub async fn tunnel(self, stage: &Stage, handshake: &Handshake) -> Tunnel {
        let (answer, tunnel) = self.open(stage, handshake).await;
        tunnel.unwrap_or_else(|| panic!("{self:?}: no tunnel for {handshake:?}: {answer:?}"))
    }

    /// A handshake that must be refused with this status and reason.
    pub async fn refused(self, stage: &Stage, handshake: &Handshake, status: u16, reason: &str) -> Answer {
        let (answer, _) = self.open(stage, handshake).await;
        assert_eq!((answer.status, answer.reason()), (status, reason), "{self:?} {handshake:?}: {answer:?}");
        answer
    }
}

/// The client's end of a tunnel.
pub enum Tunnel {
    H1(Client),
    H2(H2Stream),
}

impl Tunnel {
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        match self {
            Self::H1(client) => client.send(bytes).await,
            Self::H2(stream) => stream.write(bytes).await,
        }
    }

    pub async fn exact(&mut self, count: usize) -> Vec<u8> {
        match self {
            Self::H1(client) => client.exact(count).await,
            Self::H2(stream) => stream.exact(count).await,
        }
    }

    pub async fn frame(&mut self) -> Frame {
        match self {
            Self::H1(client) => client.frame().await,
            Self::H2(stream) => stream.frame().await,
        }
    }

    pub async fn echo(&mut self, text: &str) {
        match self {
            Self::H1(client) => client.echo(text).await,
            Self::H2(stream) => stream.echo(text).await,
        }
    }

    /// FIN, or END_STREAM.
    pub async fn finish(&mut self) {
        match self {
            Self::H1(client) => client.finish().await,
            Self::H2(stream) => stream.finish().await,
        }
    }

    pub async fn rest(&mut self) -> (Vec<u8>, End) {
        match self {
            Self::H1(client) => client.rest().await,
            Self::H2(stream) => stream.rest().await,
        }
    }

    /// RST, or RST_STREAM with CANCEL.
    pub fn reset(self) {
        match self {
            Self::H1(client) => client.reset(),
            Self::H2(mut stream) => stream.send.send_reset(h2::Reason::CANCEL),
        }
    }
}
