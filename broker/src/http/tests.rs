//! The pages over a real socket.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

async fn get_page(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

async fn start(readiness: &Readiness) -> HttpServer {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    serve(listener, Arc::new(Metrics::new()), readiness.clone()).unwrap()
}

#[tokio::test]
async fn readiness_follows_the_broker() {
    let readiness = Readiness::starting();
    let server = start(&readiness).await;
    let address = server.address();

    let page = get_page(address, "/readyz").await;
    assert!(page.starts_with("HTTP/1.1 503") && page.ends_with("the broker is starting\n"));
    readiness.waits("waiting for the controller");
    let page = get_page(address, "/readyz").await;
    assert!(
        page.starts_with("HTTP/1.1 503")
            && page.ends_with("the broker is starting: waiting for the controller\n")
    );
    readiness.waits_no_more();
    assert_eq!(
        readiness.get(),
        Ready::No("the broker is starting".to_owned())
    );
    readiness.recovering(3, 10);
    let page = get_page(address, "/readyz").await;
    assert!(page.starts_with("HTTP/1.1 503") && page.contains("3 of 10 partitions"));
    readiness.ready();
    let page = get_page(address, "/readyz").await;
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    readiness.recovering(3, 10);
    readiness.waits("waiting for the controller");
    assert_eq!(readiness.get(), Ready::Yes);
    readiness.not_ready("the broker is shutting down");
    let page = get_page(address, "/readyz").await;
    assert!(page.starts_with("HTTP/1.1 503") && page.contains("shutting down"));
    readiness.ready();
    assert!(matches!(readiness.get(), Ready::No(_)));
    assert!(
        get_page(address, "/healthz")
            .await
            .starts_with("HTTP/1.1 200")
    );
}

#[tokio::test]
async fn metrics_have_their_content_type_and_the_root_lists_the_pages() {
    let server = start(&Readiness::starting()).await;
    let page = get_page(server.address(), "/metrics").await;
    assert!(
        page.contains("content-type: text/plain; version=0.0.4"),
        "{page}"
    );
    assert!(page.contains("strandline_runtime_workers 1\n"), "{page}");
    let root = get_page(server.address(), "/").await;
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert!(root.contains(path));
    }
    assert!(
        get_page(server.address(), "/else")
            .await
            .starts_with("HTTP/1.1 404")
    );
}

#[tokio::test]
async fn a_stopped_listener_lets_go_of_its_port_in_spite_of_a_silent_connection() {
    let server = start(&Readiness::starting()).await;
    let address = server.address();
    let mut silent = TcpStream::connect(address).await.unwrap();
    silent.write_all(b"GET /metrics HT").await.unwrap();
    let _ = get_page(address, "/healthz").await;
    server.stop().await;
    assert!(TcpStream::connect(address).await.is_err());
}
