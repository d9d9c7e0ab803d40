//! A plain client over the simulated network: one request, one answer. For whoever must know exactly what was sent.

use std::net::SocketAddr;
use std::time::Duration;

use highwater_client::admin::Operation;
use highwater_io::net::TcpStream;
use highwater_io::{Io, IoBuf};
use highwater_protocol::codec::{Request, StrBytes};
use highwater_protocol::messages::TopicName;
use highwater_protocol::{decode_response, encode_request};

/// How long an answer may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two attempts to connect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(2);

/// The connection ended, or an answer did not come: whether the request was carried out is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

#[derive(Debug)]
pub(crate) struct Connection {
    io: Io,
    stream: TcpStream,
    next_correlation_id: i32,
}

impl Connection {
    /// Connects as soon as somebody listens.
    pub(crate) async fn open(io: &Io, address: SocketAddr) -> Self {
        loop {
            if let Ok(Ok(stream)) = io.timeout(CALL_TIMEOUT, io.connect(address)).await {
                return Connection { io: io.clone(), stream, next_correlation_id: 1 };
            }
            io.sleep(RECONNECT_PAUSE).await;
        }
    }

    /// Lets the broker do something of the administrator's.
    pub(crate) async fn operate<O: Operation>(
        &mut self,
        version: i16,
        operation: &O,
    ) -> Result<O::Output, Gone> {
        let response = self.call(version, &operation.request(version)).await?;
        Ok(operation.output(response))
    }

    /// Sends a request and waits for its answer. After [`Gone`] the connection is of no more use.
    pub(crate) async fn call<R: Request>(&mut self, version: i16, request: &R) -> Result<R::Response, Gone> {
        let id = self.next_correlation_id;
        self.next_correlation_id += 1;
        let client_id = StrBytes::from_static_str("sim");
        let frame = encode_request(version, id, Some(&client_id), request).expect("our requests encode");
        let io = self.io.clone();
        let exchange = async {
            self.stream.send(vec![frame]).await.map_err(|_| Gone)?;
            let size = self.stream.recv_into(IoBuf::with_capacity(4), 4).await.map_err(|_| Gone)?;
            let size = i32::from_be_bytes([size[0], size[1], size[2], size[3]]);
            let size = usize::try_from(size).expect("a broker frames its answers");
            self.stream.recv_into(IoBuf::with_capacity(size), size).await.map_err(|_| Gone)
        };
        let frame = io.timeout(CALL_TIMEOUT, exchange).await.map_err(|_| Gone)??;
        let (answered, response) =
            decode_response::<R>(frame.freeze(), version).expect("a broker's answers decode");
        assert_eq!(answered, id, "a broker answers in order");
        Ok(response)
    }
}

/// A topic's name on the wire.
pub(crate) fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}
