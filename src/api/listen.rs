//! The port: accepts connections, speaks HTTP/1.1 and HTTP/2 on each, and closes gracefully.

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

/// Connections open at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 4_096;
/// Requests in flight on one HTTP/2 connection.
const STREAMS_MAX: u32 = 1_024;
/// How long a connection may take to say what it wants.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a silent HTTP/2 connection is asked whether somebody is there …
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// … and how long it may take to say so.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A port that we hold.
#[derive(Debug)]
pub struct ApiListener {
    listener: TcpListener,
    address: SocketAddr,
}

/// Why a port is not ours.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else has it.
    #[error("the address {0} is already in use: is another server running?")]
    InUse(SocketAddr),
    /// We may not have it, or there is no such address here.
    #[error("cannot listen on {address}")]
    Refused {
        /// The address asked for.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// The grace time was over before every connection had finished.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("connections were still busy when the grace time was over")]
pub struct ShutdownTimeout;

impl ApiListener {
    /// Takes the port.
    pub async fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let taken = async {
            let listener = TcpListener::bind(address).await?;
            let address = listener.local_addr()?;
            Ok(Self { listener, address })
        };
        taken.await.map_err(|source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse(address),
            _ => BindError::Refused { address, source },
        })
    }

    /// Where it is; the real port if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`, then takes no new connection and lets those that are open finish what
    /// they have begun, for at most `grace`.
    pub async fn serve(
        self,
        router: Router,
        stop: impl Future<Output = ()>,
        grace: Duration,
    ) -> Result<(), ShutdownTimeout> {
        let speech = speech();
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let open = GracefulShutdown::new();
        let mut stop = pin!(stop);
        loop {
            let (stream, place) = tokio::select! {
                accepted = accept(&self.listener, &room) => accepted,
                () = &mut stop => break,
            };
            let service = TowerToHyperService::new(router.clone());
            let connection = speech.serve_connection(TokioIo::new(stream), service).into_owned();
            let connection = open.watch(connection);
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(error, "connection");
                }
                drop(place);
            });
        }
        drop(self.listener);
        timeout(grace, open.shutdown()).await.map_err(|_| ShutdownTimeout)
    }
}

fn speech() -> Builder<TokioExecutor> {
    let mut speech = Builder::new(TokioExecutor::new());
    speech.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    speech
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    speech
}

/// The next connection, once there is room for it.
async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> (TcpStream, OwnedSemaphorePermit) {
    let place = room.clone().acquire_owned().await.expect("the semaphore is never closed");
    loop {
        let accepted = listener.accept().await;
        match accepted.and_then(|(stream, _)| stream.set_nodelay(true).map(|()| stream)) {
            Ok(stream) => return (stream, place),
            Err(error) => {
                // Either that peer has left, or we are out of descriptors: both pass.
                tracing::debug!(%error, "accept");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
