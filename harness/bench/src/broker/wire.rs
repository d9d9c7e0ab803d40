//! One blocking connection to a broker, for the few requests of administration and for the final read.
//!
//! Records are produced by the client that the report measures; this is for everything beside the measurement, where
//! one request at a time is what is wanted. Each call has a time limit, and a frame has a largest size.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use highwater_protocol::codec::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use highwater_protocol::messages::{ApiVersionsRequest, RequestHeader, ResponseHeader};

/// A response larger than this is not one that was asked for.
const MAX_RESPONSE_BYTES: usize = 128 << 20;

const CLIENT_ID: &str = "highwater-bench";

/// Why a call gave no response.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The broker did not answer in time.
    #[error("{address}: no answer within {within:?}")]
    Silent {
        /// The broker.
        address: SocketAddr,
        /// How long it was given.
        within: Duration,
    },
    /// The connection cannot be made, or broke.
    #[error("{address}: {source}")]
    Io {
        /// The broker.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The broker sent what is not a response to the request.
    #[error("{address}: response to API key {api_key}: {problem}")]
    Garbled {
        /// The broker.
        address: SocketAddr,
        /// The request's API key.
        api_key: i16,
        /// What was wrong.
        problem: String,
    },
    /// The broker does not serve a version of the request that this harness speaks.
    #[error("{address}: API key {api_key} is served in versions {served}, {wanted} at most is spoken here")]
    Unsupported {
        /// The broker.
        address: SocketAddr,
        /// The request's API key.
        api_key: i16,
        /// What it serves.
        served: String,
        /// The newest version spoken here.
        wanted: i16,
    },
}

/// A connection whose versions are negotiated.
#[derive(Debug)]
pub struct Connection {
    address: SocketAddr,
    stream: TcpStream,
    timeout: Duration,
    correlation_id: i32,
    versions: BTreeMap<i16, (i16, i16)>,
}

impl Connection {
    /// Connects and asks for the served versions. `timeout` bounds the connection and each call on it.
    pub fn open(address: SocketAddr, timeout: Duration) -> Result<Self, WireError> {
        let io = |source| WireError::Io { address, source };
        let stream = TcpStream::connect_timeout(&address, timeout).map_err(io)?;
        stream.set_nodelay(true).map_err(io)?;
        stream.set_read_timeout(Some(timeout)).map_err(io)?;
        stream.set_write_timeout(Some(timeout)).map_err(io)?;
        let mut connection =
            Connection { address, stream, timeout, correlation_id: 0, versions: BTreeMap::new() };
        let response = connection.send(&ApiVersionsRequest::default(), 0)?;
        if response.error_code != 0 {
            return Err(
                connection.garbled(ApiVersionsRequest::KEY, format!("error code {}", response.error_code))
            );
        }
        connection.versions =
            response.api_keys.iter().map(|api| (api.api_key, (api.min_version, api.max_version))).collect();
        Ok(connection)
    }

    /// Sends a request in the newest version that both sides speak, `newest` at most, and waits for its response.
    pub fn call<R: Request>(&mut self, request: &R, newest: i16) -> Result<R::Response, WireError> {
        let unsupported = |served: String| WireError::Unsupported {
            address: self.address,
            api_key: R::KEY,
            served,
            wanted: newest,
        };
        let Some(&(min, max)) = self.versions.get(&R::KEY) else {
            return Err(unsupported("none".into()));
        };
        if min > newest {
            return Err(unsupported(format!("{min} to {max}")));
        }
        self.send(request, newest.min(max))
    }

    /// The broker's address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn send<R: Request>(&mut self, request: &R, version: i16) -> Result<R::Response, WireError> {
        self.correlation_id = self.correlation_id.wrapping_add(1);
        let frame = self.encode(request, version)?;
        self.stream.write_all(&frame).map_err(|source| self.io(source))?;
        let mut response = self.receive(R::KEY)?;
        let header = ResponseHeader::decode(&mut response, R::Response::header_version(version))
            .map_err(|error| self.garbled(R::KEY, error.to_string()))?;
        if header.correlation_id != self.correlation_id {
            return Err(self.garbled(R::KEY, format!("it answers request {}", header.correlation_id)));
        }
        R::Response::decode(&mut response, version).map_err(|error| self.garbled(R::KEY, error.to_string()))
    }

    fn encode<R: Request>(&self, request: &R, version: i16) -> Result<Bytes, WireError> {
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation_id)
            .with_client_id(Some(StrBytes::from_static_str(CLIENT_ID)));
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        header
            .encode(&mut frame, R::header_version(version))
            .and_then(|()| request.encode(&mut frame, version))
            .map_err(|error| self.garbled(R::KEY, format!("the request cannot be written: {error}")))?;
        let length = i32::try_from(frame.len() - 4)
            .map_err(|_| self.garbled(R::KEY, "the request is larger than a frame".into()))?;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        Ok(frame.freeze())
    }

    fn receive(&mut self, api_key: i16) -> Result<Bytes, WireError> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).map_err(|source| self.io(source))?;
        let length = (&length[..]).get_i32();
        let length = usize::try_from(length)
            .ok()
            .filter(|&length| length <= MAX_RESPONSE_BYTES)
            .ok_or_else(|| self.garbled(api_key, format!("it claims {length} bytes")))?;
        let mut body = BytesMut::zeroed(length);
        self.stream.read_exact(&mut body).map_err(|source| self.io(source))?;
        Ok(body.freeze())
    }

    fn io(&self, source: std::io::Error) -> WireError {
        let address = self.address;
        match source.kind() {
            // What a socket with a time limit says when it has passed.
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                WireError::Silent { address, within: self.timeout }
            }
            _ => WireError::Io { address, source },
        }
    }

    fn garbled(&self, api_key: i16, problem: String) -> WireError {
        WireError::Garbled { address: self.address, api_key, problem }
    }
}
