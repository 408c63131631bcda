use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::*;
use crate::config::model::{ListenAddress, Listener, ListenerLimits, ListenerTimeouts, Protocols};
use crate::config::report::{Located, Spot};
use crate::limits::{Connections, Shut};
use crate::telemetry::metrics::{ListenerBook, Refused};
use crate::types::{Name, Peer};

const PATIENCE: Duration = Duration::from_secs(10);

fn listener(address: ListenAddress) -> Listener {
    Listener {
        name: "test".into(),
        address: Located::new(address, Spot::default()),
        protocols: Protocols { http1: true, http2: false },
        websocket_over_h2: false,
        redirect_https: false,
        proxy_protocol: None,
        tls: None,
        timeouts: ListenerTimeouts { tls_handshake: PATIENCE, request_head: PATIENCE, keep_alive: PATIENCE },
        limits: ListenerLimits { head_size: 16 << 10, fields: 100, target_size: 8 << 10 },
        spot: Spot::default(),
    }
}

fn book(name: &str) -> Arc<ListenerBook> {
    Arc::new(ListenerBook::from(Name::from(name)))
}

fn tcp(address: &str) -> Listener {
    listener(ListenAddress::Tcp(address.parse().expect("an address")))
}

fn unix(path: &Path) -> Listener {
    listener(ListenAddress::Unix(path.to_owned()))
}

/// What a worker is told.
#[derive(Debug)]
enum Told {
    Arrival(Arrival),
    Shutting(Shutting),
}

impl From<Arrival> for Told {
    fn from(arrival: Arrival) -> Self {
        Self::Arrival(arrival)
    }
}

impl From<Shutting> for Told {
    fn from(shutting: Shutting) -> Self {
        Self::Shutting(shutting)
    }
}

/// An accept loop with its workers' ends; the loop runs as long as the test polls its local set.
struct Rig {
    addresses: Vec<SocketAddr>,
    shut: Arc<Shut>,
    inboxes: Vec<mpsc::UnboundedReceiver<Told>>,
    stop: watch::Sender<bool>,
    orders: mpsc::Sender<Order>,
    ended: tokio::task::JoinHandle<std::io::Result<()>>,
    limits: Connections,
}

fn rig(listeners: usize, workers: usize, max: usize) -> Rig {
    let bound: Vec<_> =
        (0..listeners).map(|_| bind(&tcp("127.0.0.1:0"), &book("test")).expect("a free port")).collect();
    let addresses = bound.iter().map(|bound| bound.tcp_address().expect("tcp")).collect();
    let (ports, inboxes) = (0..workers)
        .map(|_| {
            let (inbox, receiver) = mpsc::unbounded_channel();
            (WorkerPort { load: Arc::default(), inbox }, receiver)
        })
        .unzip();
    let (stop, stopped) = watch::channel(false);
    let (orders, told) = mpsc::channel(1);
    let (limits, shut) = (Connections::new(max), Arc::<Shut>::default());
    let ended = tokio::task::spawn_local(accept_loop(bound, shut.clone(), ports, limits.clone(), stopped, told));
    Rig { addresses, shut, inboxes, stop, orders, ended, limits }
}

async fn told(inbox: &mut mpsc::UnboundedReceiver<Told>) -> Told {
    timeout(PATIENCE, inbox.recv()).await.expect("something in time").expect("the loop runs")
}

async fn next(inbox: &mut mpsc::UnboundedReceiver<Told>) -> Arrival {
    match told(inbox).await {
        Told::Arrival(arrival) => arrival,
        Told::Shutting(shutting) => panic!("{shutting:?}"),
    }
}

/// Whether the other side hangs up without a word.
async fn is_closed(stream: TcpStream) -> bool {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    tokio::task::spawn_blocking(move || match (&stream).read(&mut [0]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    })
    .await
    .expect("no panic")
}

/// Runs on a runtime like the accept thread's own.
fn local<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, test)
}

#[test]
fn an_arrival_carries_its_listener_addresses_permit_and_load() {
    local(async {
        let mut rig = rig(2, 1, 10);
        let client = TcpStream::connect(rig.addresses[1]).expect("it listens");
        let mut arrival = next(&mut rig.inboxes[0]).await;
        assert_eq!(arrival.listener, 1);
        assert_eq!(arrival.local, Some(rig.addresses[1]));
        assert_eq!(arrival.peer, Peer::Tcp(client.local_addr().expect("an address")));
        assert_eq!(rig.limits.open(), 1);
        arrival.load.handshake_done();
        let ArrivedSocket::Tcp(stream) = &arrival.socket else { panic!("a TCP socket") };
        assert!(stream.nodelay().expect("readable option"));
        let socket = arrival.socket.into_socket().expect("joins the runtime");
        drop((socket, arrival.permit));
        assert_eq!(rig.limits.open(), 0);
        assert!(is_closed(client).await);
    });
}

#[test]
fn connections_beyond_the_limit_are_closed_at_once_and_room_is_used_again() {
    local(async {
        let mut rig = rig(1, 1, 3);
        let mut held = Vec::new();
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(TcpStream::connect(rig.addresses[0]).expect("it listens"));
            held.push(next(&mut rig.inboxes[0]).await);
        }
        for _ in 0..20 {
            assert!(is_closed(TcpStream::connect(rig.addresses[0]).expect("it listens")).await);
        }
        assert_eq!(rig.limits.open(), 3);
        held.pop();
        let _fourth = TcpStream::connect(rig.addresses[0]).expect("it listens");
        next(&mut rig.inboxes[0]).await;
    });
}

#[test]
fn connections_are_spread_evenly_and_a_freed_worker_is_preferred() {
    local(async {
        let mut rig = rig(1, 4, 100);
        let clients: Vec<_> = (0..40).map(|_| TcpStream::connect(rig.addresses[0]).expect("it listens")).collect();
        let mut held: Vec<Vec<Arrival>> = Vec::new();
        for inbox in &mut rig.inboxes {
            let mut own = Vec::new();
            for _ in 0..10 {
                own.push(next(inbox).await);
            }
            held.push(own);
        }
        held[2].clear();
        let more: Vec<_> = (0..10).map(|_| TcpStream::connect(rig.addresses[0]).expect("it listens")).collect();
        for _ in 0..10 {
            held[2].push(next(&mut rig.inboxes[2]).await);
        }
        drop((clients, more));
    });
}

#[test]
fn a_connection_in_its_handshake_weighs_more_than_one_that_is_open() {
    let load = Arc::new(WorkerLoad::default());
    let mut first = LoadGuard::new(&load, &book("test"));
    let fresh = load.weight();
    first.handshake_done();
    first.handshake_done();
    assert_eq!(load.weight(), 1);
    assert!(fresh > 1);
    let second = LoadGuard::new(&load, &book("test"));
    assert_eq!((load.weight(), load.connections()), (1 + fresh, 2));
    drop((first, second));
    assert_eq!((load.weight(), load.connections()), (0, 0));
}

#[test]
fn a_flood_on_one_listener_does_not_starve_another() {
    local(async {
        let mut rig = rig(2, 1, 1000);
        // Both queues are full before the loop runs for the first time.
        let flood: Vec<_> = (0..100).map(|_| TcpStream::connect(rig.addresses[0]).expect("it listens")).collect();
        let lonely = TcpStream::connect(rig.addresses[1]).expect("it listens");
        let mut before = 0;
        let mut held = Vec::new();
        loop {
            let arrival = next(&mut rig.inboxes[0]).await;
            if arrival.listener == 1 {
                break;
            }
            before += 1;
            held.push(arrival);
        }
        assert!(before <= 32, "{before} connections of the flood came first");
        drop((flood, lonely));
    });
}

#[test]
fn a_stop_takes_what_was_queued_and_then_refuses() {
    local(async {
        let mut rig = rig(1, 1, 10);
        let queued = TcpStream::connect(rig.addresses[0]).expect("it listens");
        rig.stop.send(true).expect("the loop listens");
        timeout(PATIENCE, rig.ended).await.expect("it ends").expect("no panic").expect("no error");
        let arrival = rig.inboxes[0].recv().await.expect("the queued one was taken");
        let refused = TcpStream::connect(rig.addresses[0]).expect_err("nobody listens");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        drop((queued, arrival));
    });
}

/// Puts another set of listeners in place, and a mark into the first worker's inbox between the two.
async fn change(rig: &Rig, doors: Vec<Door>, between: impl FnOnce() + Send + 'static) -> Option<std::io::Result<()>> {
    let (done, answer) = oneshot::channel();
    assert!(rig.orders.send(Order::Change(Change { doors, between: Box::new(between), done })).await.is_ok());
    timeout(PATIENCE, answer).await.expect("an answer in time").ok()
}

#[test]
fn a_change_keeps_sockets_takes_what_the_others_have_queued_and_names_arrivals_anew() {
    local(async {
        let mut rig = rig(3, 1, 100);
        let fresh = bind(&tcp("127.0.0.1:0"), &book("test")).expect("a free port");
        let added = fresh.tcp_address().expect("tcp");
        // All queues have somebody before the loop runs for the first time.
        let queued: Vec<_> = rig.addresses.iter().map(|at| TcpStream::connect(at).expect("it listens")).collect();
        let (seen, told) = std::sync::mpsc::channel();
        let doors = vec![
            Door::Kept { position: 2, book: book("last") },
            Door::New(fresh),
            Door::Kept { position: 0, book: book("first") },
        ];
        let limits = rig.limits.clone();
        let done = change(&rig, doors, move || seen.send(limits.open()).expect("the test listens")).await;
        done.expect("the loop runs").expect("a set that can be watched");
        // Of the two that stay, some may have been taken before; the third one was in any case.
        assert!(told.recv().expect("called once") >= 1);
        assert_eq!(
            TcpStream::connect(rig.addresses[1]).expect_err("closed").kind(),
            std::io::ErrorKind::ConnectionRefused
        );
        let mut arrived = Vec::new();
        for _ in 0..3 {
            arrived.push(next(&mut rig.inboxes[0]).await);
        }
        for (address, position) in [(rig.addresses[2], 0), (added, 1), (rig.addresses[0], 2)] {
            let _client = TcpStream::connect(address).expect("it listens");
            let arrival = next(&mut rig.inboxes[0]).await;
            assert_eq!((arrival.listener, arrival.local), (position, Some(address)));
        }
        drop((queued, arrived));
    });
}

#[test]
fn a_change_after_the_end_is_answered_by_nobody() {
    local(async {
        let mut rig = rig(1, 1, 10);
        rig.stop.send(true).expect("the loop listens");
        let ended = &mut rig.ended;
        timeout(PATIENCE, ended).await.expect("it ends").expect("no panic").expect("no error");
        let (done, answer) = oneshot::channel();
        let late = rig.orders.send(Order::Change(Change { doors: Vec::new(), between: Box::new(|| ()), done })).await;
        assert!(late.is_err());
        drop(late);
        answer.await.expect_err("nobody");
    });
}

#[test]
fn a_worker_that_is_gone_gets_nothing() {
    local(async {
        let mut rig = rig(1, 2, 10);
        drop(rig.inboxes.remove(0));
        let clients: Vec<_> = (0..4).map(|_| TcpStream::connect(rig.addresses[0]).expect("it listens")).collect();
        for _ in 0..4 {
            next(&mut rig.inboxes[0]).await;
        }
        drop(clients);
    });
}

#[test]
fn a_taken_port_is_a_clear_error() {
    let first = bind(&tcp("127.0.0.1:0"), &book("test")).expect("a free port");
    let error = bind(&tcp(&first.to_string()), &book("test")).expect_err("it is taken");
    assert_eq!(error.to_string(), format!("cannot listen on {first}: somebody listens there already"));
}

#[test]
fn v4_and_v6_listeners_share_a_port() {
    let Ok(v6) = bind(&tcp("[::]:0"), &book("test")) else {
        eprintln!("skipped: no IPv6 here");
        return;
    };
    let port = v6.tcp_address().expect("tcp").port();
    bind(&tcp(&format!("0.0.0.0:{port}")), &book("test")).expect("v6 does not take v4's port");
}

#[test]
fn a_unix_socket_is_for_owner_and_group_and_goes_away_with_its_listener() {
    local(async {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("gateway.sock");
        let bound = bind(&unix(&path), &book("test")).expect("it binds");
        assert_eq!(bound.to_string(), format!("unix:{}", path.display()));
        let mode = path.metadata().expect("it exists").permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        let (inbox, mut receiver) = mpsc::unbounded_channel();
        let (stop, stopped) = watch::channel(false);
        let port = WorkerPort { load: Arc::default(), inbox };
        let ended = tokio::task::spawn_local(accept_loop(
            vec![bound],
            Arc::default(),
            vec![port],
            Connections::new(1),
            stopped,
            mpsc::channel(1).1,
        ));
        let mut client = UnixStream::connect(&path).expect("it listens");
        let arrival = next(&mut receiver).await;
        assert_eq!((&arrival.peer, arrival.local), (&Peer::Unix, None));
        client.write_all(b"x").expect("it is connected");
        let mut socket = arrival.socket.into_socket().expect("joins the runtime");
        assert_eq!(tokio::io::AsyncReadExt::read_u8(&mut socket).await.expect("the byte"), b'x');
        drop(stop);
        timeout(PATIENCE, ended).await.expect("it ends").expect("no panic").expect("no error");
        assert!(!path.exists());
    });
}

#[test]
fn a_stale_unix_socket_is_replaced_and_a_living_one_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("gateway.sock");
    // std's listener leaves its file behind, like a process that was killed.
    drop(UnixListener::bind(&path).expect("it binds"));
    let bound = bind(&unix(&path), &book("test")).expect("the stale file is replaced");
    let error = bind(&unix(&path), &book("test")).expect_err("somebody listens");
    assert!(error.to_string().ends_with("somebody listens there already"), "{error}");
    UnixStream::connect(&path).expect("the first one still listens");

    // Another process has put its own socket there: it is not ours to remove.
    std::fs::remove_file(&path).expect("removable");
    let _other = UnixListener::bind(&path).expect("it binds");
    drop(bound);
    assert!(path.exists());
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("precious.txt");
    std::fs::write(&path, "precious").expect("writable");
    let error = bind(&unix(&path), &book("test")).expect_err("it is taken");
    assert!(error.to_string().ends_with("a file that is no socket"), "{error}");
    assert_eq!(std::fs::read(&path).expect("still there"), b"precious");
    let missing = bind(&unix(&folder.path().join("no/such.sock")), &book("test")).expect_err("no folder");
    assert!(missing.to_string().ends_with("(its folder must exist)"), "{missing}");
    let long = bind(&unix(&folder.path().join("x".repeat(200))), &book("test")).expect_err("too long");
    assert!(long.to_string().starts_with("cannot listen on unix:"), "{long}");
}

const STARVED: &str = "PORTCULLIS_TEST_STARVED";

/// LIM-11: with no descriptor left, every waiting client gets an answer (a close), nothing spins, and as soon as there
/// are descriptors again clients are served. In a process of its own, because the limit is the process's.
#[test]
fn without_descriptors_new_connections_are_closed_and_service_comes_back() {
    let mut child = std::process::Command::new(std::env::current_exe().expect("our own path"))
        .args(["--exact", "listener::tests::starved_process", "--ignored", "--nocapture", "--test-threads=1"])
        .env(STARVED, "1")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().expect("piped")));
    let address: SocketAddr = lines
        .find_map(|line| line.expect("text").split_once("listens on ")?.1.parse().ok())
        .expect("the child says where it listens");

    let clients: Vec<_> = (0..64).map(|_| TcpStream::connect(address).expect("it listens")).collect();
    let served = clients.iter().filter(|client| is_served(client)).count();
    assert!((1..64).contains(&served), "{served} of 64 served");
    let before = processor_ticks(child.id());
    std::thread::sleep(Duration::from_millis(300));
    let spent = processor_ticks(child.id()) - before;
    assert!(spent <= 5, "{spent} ticks of 30 spent on doing nothing");

    drop(clients);
    let deadline = std::time::Instant::now() + PATIENCE;
    // The child learns of the closed clients in its own time.
    while !is_served(&TcpStream::connect(address).expect("it listens")) {
        assert!(std::time::Instant::now() < deadline, "service did not come back");
    }
    drop(child.stdin.take());
    assert!(child.wait().expect("it ends").success());
}

/// A byte, as against the end. Neither within the patience is a failure.
fn is_served(mut client: &TcpStream) -> bool {
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    match client.read(&mut [0]) {
        Ok(read) => read == 1,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => false,
        Err(error) => panic!("neither served nor closed: {error}"),
    }
}

/// User and system time of a process, in hundredths of a second.
fn processor_ticks(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("it lives");
    let fields: Vec<_> = stat.rsplit_once(')').expect("the name's end").1.split_whitespace().collect();
    fields[11].parse::<u64>().expect("a number") + fields[12].parse::<u64>().expect("a number")
}

#[test]
#[ignore = "the other half of a test, run by it in a process of its own"]
fn starved_process() {
    if std::env::var_os(STARVED).is_none() {
        return;
    }
    local(async {
        let mut rig = rig(1, 1, 1000);
        let open = std::fs::read_dir("/proc/self/fd").expect("Linux").count() as u64;
        let limit = rustix::process::Rlimit { current: Some(open + 16), maximum: Some(open + 16) };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).expect("lowering is allowed");
        println!("listens on {}", rig.addresses[0]);
        let (ask, asked) = tokio::sync::oneshot::channel();
        // The parent closes our input when it has seen enough.
        std::thread::spawn(move || {
            let _ = std::io::stdin().read(&mut [0]);
            let _ = ask.send(());
        });
        let serve = async {
            while let Some(Told::Arrival(arrival)) = rig.inboxes[0].recv().await {
                tokio::task::spawn_local(async move {
                    let mut socket = arrival.socket.into_socket().expect("joins the runtime");
                    let _ = tokio::io::AsyncWriteExt::write_all(&mut socket, b"x").await;
                    let _ = tokio::io::AsyncReadExt::read(&mut socket, &mut [0]).await;
                    drop(arrival.permit);
                });
            }
        };
        tokio::select! {
            () = serve => panic!("the loop has ended"),
            _ = asked => {}
        }
    });
}

/// Waits until a port refuses connections; what comes before that is taken by the loop.
async fn refuses(address: SocketAddr) {
    let refused = async {
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, refused).await.expect("refused in time");
}

#[test]
fn a_listener_that_is_shut_refuses_clients_after_those_that_are_queued_and_takes_them_again_at_its_port() {
    local(async {
        let mut rig = rig(1, 2, 100);
        let address = rig.addresses[0];
        let _queued = TcpStream::connect(address).expect("it listens");
        for _ in 0..3 {
            rig.shut.shut(&"test".into());
            refuses(address).await;
            for inbox in &mut rig.inboxes {
                let last = async { while !matches!(told(inbox).await, Told::Shutting(Shutting(0))) {} };
                last.await;
                assert!(inbox.try_recv().is_err(), "nothing comes behind it");
            }
            rig.shut.open(&"test".into());
            let open = async {
                loop {
                    match tokio::net::TcpStream::connect(address).await {
                        Ok(client) => break client,
                        Err(_) => tokio::task::yield_now().await,
                    }
                }
            };
            let client = timeout(PATIENCE, open).await.expect("it listens again");
            let (one, other) = rig.inboxes.split_at_mut(1);
            let arrival = tokio::select! {
                arrival = next(&mut one[0]) => arrival,
                arrival = next(&mut other[0]) => arrival,
            };
            assert_eq!(
                (arrival.peer, arrival.local),
                (Peer::Tcp(client.local_addr().expect("its own")), Some(address))
            );
            // Nothing spins on a socket that has been silent.
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(rig.inboxes.iter_mut().all(|inbox| inbox.try_recv().is_err()));
        }
        assert!(!rig.ended.is_finished());
    });
}

#[test]
fn a_listener_that_is_shut_tries_until_its_address_is_free_again() {
    local(async {
        let mut rig = rig(1, 1, 100);
        let address = rig.addresses[0];
        rig.shut.shut(&"test".into());
        refuses(address).await;
        let other = std::net::TcpListener::bind(address).expect("nobody listens");
        rig.shut.open(&"test".into());
        let _theirs = tokio::net::TcpStream::connect(address).await.expect("the other one listens");
        drop(other);
        let open = async { while tokio::net::TcpStream::connect(address).await.is_err() {} };
        timeout(PATIENCE, open).await.expect("it listens again");
        while !matches!(told(&mut rig.inboxes[0]).await, Told::Arrival(_)) {}
    });
}

#[test]
fn clients_of_a_unix_socket_that_is_shut_are_closed_and_counted() {
    local(async {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("gateway.sock");
        let (book, shut) = (book("test"), Arc::<Shut>::default());
        let bound = bind(&unix(&path), &book).expect("it binds");
        let (inbox, mut receiver) = mpsc::unbounded_channel::<Told>();
        let (_stop, stopped) = watch::channel(false);
        let port = WorkerPort { load: Arc::default(), inbox };
        let (_changes, changes) = mpsc::channel(1);
        let limits = Connections::new(10);
        tokio::task::spawn_local(accept_loop(vec![bound], shut.clone(), vec![port], limits, stopped, changes));
        shut.shut(&"test".into());
        assert!(matches!(told(&mut receiver).await, Told::Shutting(Shutting(0))));
        let client = UnixStream::connect(&path).expect("its queue is there");
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        let read = tokio::task::spawn_blocking(move || (&client).read(&mut [0]).expect("the end")).await;
        assert_eq!((read.expect("no panic"), book.connections.refused(Refused::Drained)), (0, 1));
        shut.open(&"test".into());
        let _client = UnixStream::connect(&path).expect("it listens");
        // It may have come before the door was open again.
        let open = async {
            loop {
                let client = UnixStream::connect(&path).expect("it listens");
                tokio::task::yield_now().await;
                if let Ok(told) = receiver.try_recv() {
                    break (client, told);
                }
            }
        };
        let (_client, told) = timeout(PATIENCE, open).await.expect("taken again");
        assert!(matches!(told, Told::Arrival(Arrival { peer: Peer::Unix, .. })), "{told:?}");
    });
}
