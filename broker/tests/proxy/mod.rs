//! A way to a broker on which connections can be made to die without a word.

use std::sync::{Arc, OnceLock};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

/// Passes bytes on between its own address and a broker's.
pub struct Proxy {
    address: String,
    to: Arc<OnceLock<String>>,
    /// How often connections were cut; those from before a cut pass on nothing any more.
    cuts: watch::Sender<usize>,
}

impl Proxy {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let to = Arc::new(OnceLock::<String>::new());
        let (cuts, target) = (watch::Sender::new(0), Arc::clone(&to));
        let known = cuts.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Some(target) = target.get() else {
                    continue;
                };
                let Ok(far) = TcpStream::connect(target).await else {
                    continue;
                };
                let (near, far) = (near.into_split(), far.into_split());
                let cuts = known.subscribe();
                tokio::spawn(pass(near.0, far.1, cuts.clone()));
                tokio::spawn(pass(far.0, near.1, cuts));
            }
        });
        Self { address, to, cuts }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn leads_to(&self, address: String) {
        self.to.set(address).unwrap();
    }

    /// Every connection that is open now stays open and passes on nothing any more.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut cuts: watch::Receiver<usize>) {
    let mut bytes = vec![0; 16 << 10];
    loop {
        let read = tokio::select! {
            biased;
            _ = cuts.changed() => return std::future::pending().await,
            read = from.read(&mut bytes) => read,
        };
        match read {
            Ok(0) | Err(_) => return,
            Ok(count) => {
                if to.write_all(&bytes[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}
