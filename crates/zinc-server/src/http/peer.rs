//! Whether a client is still there.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::sleep;

/// Between two looks at a client that has sent its next request already, which hides its end.
const LOOK: Duration = Duration::from_millis(250);

/// The client's end of a connection.
#[derive(Debug, Clone)]
pub struct Peer(Arc<TcpStream>);

impl Peer {
    /// The other end of `stream`.
    pub fn new(stream: Arc<TcpStream>) -> Peer {
        Peer(stream)
    }

    /// Resolves when the client has closed its sending side, or all of the connection: the two look the
    /// same until something is written. To be called when its request is read.
    pub async fn gone(&self) {
        loop {
            match self.0.ready(Interest::READABLE).await {
                Ok(ready) if !ready.is_read_closed() => {}
                _ => return,
            }
            // Waits where the socket only seemed readable.
            match self.0.peek(&mut [0]).await {
                Ok(1..) => sleep(LOOK).await,
                Ok(0) | Err(_) => return,
            }
        }
    }
}
