//! A name server that says what a test tells it to, over UDP and TCP on one port, and remembers what it was asked.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;

/// What fits into a datagram; more is asked for again over TCP.
const DATAGRAM: usize = 1232;

/// What a name stands for.
#[derive(Clone, Debug)]
pub enum Says {
    /// TTL and addresses of both families.
    Addresses(u32, Vec<IpAddr>),
    /// TTL, then priority, weight, port and target of each.
    Services(u32, Vec<(u16, u16, u16, String)>),
    /// Another name, with a TTL. Nothing of what that one stands for is sent along.
    Alias(u32, String),
    /// There is no such name.
    Denied,
    Failure,
    /// No answer at all.
    Silence,
    /// Many answers with wrong ids, wrong questions and an address that nobody may go to; then this.
    AfterForgeries(Box<Says>),
}

impl Says {
    pub fn addresses(ttl: u32, addresses: &[&str]) -> Self {
        Self::Addresses(ttl, addresses.iter().map(|text| text.parse().expect("an address")).collect())
    }

    pub fn services(ttl: u32, services: &[(u16, u16, u16, &str)]) -> Self {
        let owned =
            services.iter().map(|(priority, weight, port, target)| (*priority, *weight, *port, (*target).into()));
        Self::Services(ttl, owned.collect())
    }
}

#[derive(Default)]
struct Zone {
    says: HashMap<String, Says>,
    asked: Vec<(String, RecordType)>,
    over_tcp: usize,
}

pub struct NameServer {
    pub address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    tasks: [JoinHandle<()>; 2],
}

impl NameServer {
    /// Denies every name that it was not told of.
    pub async fn start() -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
            // The port is free over UDP; over TCP it most likely is.
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().expect("an address")).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().expect("an address");
        let zone = Arc::<Mutex<Zone>>::default();
        let tasks = [tokio::spawn(serve_udp(udp, zone.clone())), tokio::spawn(serve_tcp(tcp, zone.clone()))];
        Self { address, zone, tasks }
    }

    /// A key for `[server]`.
    pub fn toml(&self) -> String {
        format!("nameservers = [\"{}\"]\n", self.address)
    }

    pub fn say(&self, name: &str, says: Says) {
        self.zone.lock().expect("a whole zone").says.insert(name.to_owned(), says);
    }

    /// How often a name was asked for, with this type.
    pub fn asked(&self, name: &str, kind: RecordType) -> usize {
        let zone = self.zone.lock().expect("a whole zone");
        zone.asked.iter().filter(|(asked, as_kind)| asked == name && *as_kind == kind).count()
    }

    pub fn over_tcp(&self) -> usize {
        self.zone.lock().expect("a whole zone").over_tcp
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn serve_udp(socket: UdpSocket, zone: Arc<Mutex<Zone>>) {
    let mut datagram = [0; 4096];
    while let Ok((length, peer)) = socket.recv_from(&mut datagram).await {
        for mut answer in answers(&datagram[..length], &zone) {
            if answer.len() > DATAGRAM {
                answer = truncated(&answer);
            }
            let _ = socket.send_to(&answer, peer).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, zone: Arc<Mutex<Zone>>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve_stream(stream, zone.clone()));
    }
}

async fn serve_stream(mut stream: TcpStream, zone: Arc<Mutex<Zone>>) -> io::Result<()> {
    loop {
        let length = stream.read_u16().await?;
        let mut question = vec![0; length.into()];
        stream.read_exact(&mut question).await?;
        zone.lock().expect("a whole zone").over_tcp += 1;
        for answer in answers(&question, &zone) {
            stream.write_u16(u16::try_from(answer.len()).expect("a message")).await?;
            stream.write_all(&answer).await?;
        }
    }
}

/// The header and the question of an answer, with the sign that there is more.
fn truncated(answer: &[u8]) -> Vec<u8> {
    let mut message = Message::from_vec(answer).expect("our own message");
    message.answers.clear();
    message.metadata.truncation = true;
    message.to_vec().expect("a message")
}

fn answers(question: &[u8], zone: &Mutex<Zone>) -> Vec<Vec<u8>> {
    let question = Message::from_vec(question).expect("the gateway asks well");
    let query = question.queries.first().expect("a question").clone();
    let name = query.name().to_ascii().to_ascii_lowercase().trim_end_matches('.').to_owned();
    let kind = query.query_type();
    let says = {
        let mut zone = zone.lock().expect("a whole zone");
        zone.asked.push((name.clone(), kind));
        zone.says.get(&name).cloned().unwrap_or(Says::Denied)
    };
    let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
    answer.metadata.message_type = MessageType::Response;
    answer.metadata.recursion_available = true;
    answer.add_query(query.clone());
    told(&says, &answer, query.name(), kind).iter().map(|message| message.to_vec().expect("a message")).collect()
}

fn told(says: &Says, empty: &Message, name: &Name, kind: RecordType) -> Vec<Message> {
    let mut answer = empty.clone();
    let record = |ttl: u32, data: RData| Record::from_rdata(name.clone(), ttl, data);
    match says {
        Says::Addresses(ttl, addresses) => {
            for address in addresses {
                match (address, kind) {
                    (IpAddr::V4(v4), RecordType::A) => _ = answer.add_answer(record(*ttl, RData::A(A(*v4)))),
                    (IpAddr::V6(v6), RecordType::AAAA) => _ = answer.add_answer(record(*ttl, RData::AAAA(AAAA(*v6)))),
                    _ => {}
                }
            }
        }
        Says::Services(ttl, services) => {
            for (priority, weight, port, target) in services.iter().filter(|_| kind == RecordType::SRV) {
                let target = Name::from_ascii(format!("{target}.")).expect("a name");
                answer.add_answer(record(*ttl, RData::SRV(SRV::new(*priority, *weight, *port, target))));
            }
        }
        Says::Alias(ttl, target) => {
            let target = Name::from_ascii(format!("{target}.")).expect("a name");
            answer.add_answer(record(*ttl, RData::CNAME(CNAME(target))));
        }
        Says::Denied => answer.metadata.response_code = ResponseCode::NXDomain,
        Says::Failure => answer.metadata.response_code = ResponseCode::ServFail,
        Says::Silence => return Vec::new(),
        Says::AfterForgeries(then) => {
            let mut forged = empty.clone();
            forged.add_answer(record(300, RData::A(A([127, 66, 66, 66].into()))));
            let mut all = Vec::new();
            for number in 1..50 {
                let mut wrong = forged.clone();
                wrong.metadata.id = empty.metadata.id.wrapping_add(number);
                all.push(wrong);
            }
            let mut other = forged;
            other.queries.clear();
            other.add_query(hickory_proto::op::Query::query(Name::from_ascii("other.test.").expect("a name"), kind));
            all.push(other);
            all.extend(told(then, empty, name, kind));
            return all;
        }
    }
    vec![answer]
}
