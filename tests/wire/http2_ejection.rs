//! EJC-08: what streams of HTTP/2 say of their servers.

use bytes::Bytes;
use h2::Reason;

use crate::harness::{Cluster, Exchange, H2Server, Request, pause, send_all};

const THREE: &str = "protocols = [\"h2c\"]\nejection = { failures = 3, duration = \"60s\" }\nretries = 0";

/// How many of twenty requests such a server gets beside a good one.
async fn share_of<F, Fut>(script: F) -> (usize, Cluster)
where
    F: Fn(Exchange) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let (bad, good) = (H2Server::new(), H2Server::new());
    let cluster = Cluster::of(vec![bad.scripted(script), good.standard()]).upstream(THREE).start();
    for _ in 0..20 {
        let mut client = cluster.client().await;
        client.send(Request::get("/n").to_h1()).await;
        let _ = client.try_answer("GET").await;
    }
    (bad.heads().len(), cluster)
}

#[tokio::test]
async fn ejc_08_answers_and_resets_over_http2_count_as_over_http1() {
    let (share, _) = share_of(|exchange| async move { exchange.answer(503, &[], "").await }).await;
    assert_eq!(share, 3);
    let (share, _) = share_of(|mut exchange| async move { exchange.respond.send_reset(Reason::INTERNAL_ERROR) }).await;
    assert_eq!(share, 3);
    let (share, cluster) = share_of(|mut exchange| async move {
        let mut stream = exchange.begin(200, &[]);
        let _ = send_all(&mut stream, Bytes::from_static(b"half"), false).await;
        // The library forgets what has not been written yet.
        pause(20).await;
        stream.send_reset(Reason::INTERNAL_ERROR);
    })
    .await;
    assert_eq!(share, 3);
    cluster.tells("3 failures in a row, the last: the answer broke off: ", 1).await;
    let (share, _) = share_of(|exchange| async move { exchange.answer(404, &[], "").await }).await;
    assert_eq!(share, 10);
}

#[tokio::test]
async fn ejc_08_a_server_that_says_that_it_has_processed_nothing_is_not_blamed() {
    let (share, cluster) = share_of(|mut exchange| async move {
        exchange.respond.send_reset(Reason::REFUSED_STREAM);
    })
    .await;
    assert_eq!(share, 10, "{}", cluster.gateway.stderr());
    assert!(!cluster.said("is ejected"));
}
