//! A [`ModelCluster`] on real sockets: one broker, one thread a connection.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;

use super::{Fault, ModelCluster};

/// A broker that listens until it is dropped.
pub struct TcpBroker {
    pub cluster: Arc<Mutex<ModelCluster>>,
    address: SocketAddr,
    connections: Arc<Mutex<Vec<TcpStream>>>,
    stops: Arc<AtomicBool>,
}

impl TcpBroker {
    /// Starts a broker with a topic `t`, on a port of the system's choice if `port` is 0.
    pub fn start(port: u16, partition_count: i32) -> io::Result<TcpBroker> {
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        let address = listener.local_addr()?;
        let mut cluster = ModelCluster::new(1);
        cluster.brokers = vec![(1, "127.0.0.1".to_owned(), address.port())];
        cluster.create_topic("t", partition_count);
        let broker = TcpBroker {
            cluster: Arc::new(Mutex::new(cluster)),
            address,
            connections: Arc::default(),
            stops: Arc::default(),
        };
        let (cluster, connections) = (Arc::clone(&broker.cluster), Arc::clone(&broker.connections));
        let stops = Arc::clone(&broker.stops);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stops.load(Ordering::Acquire) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                if let Ok(handle) = stream.try_clone() {
                    connections.lock().unwrap_or_else(PoisonError::into_inner).push(handle);
                }
                let cluster = Arc::clone(&cluster);
                // A client that hangs up is no error of the broker's.
                std::thread::spawn(move || drop(serve(stream, &cluster)));
            }
        });
        Ok(broker)
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn lock(&self) -> std::sync::MutexGuard<'_, ModelCluster> {
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hangs up on every client.
    pub fn cut(&self) {
        for stream in self.connections.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // One that is gone already needs no hanging up.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Waits until the broker has been asked to stop.
    pub fn wait(&self) -> ! {
        loop {
            std::thread::park();
        }
    }
}

impl Drop for TcpBroker {
    fn drop(&mut self) {
        self.stops.store(true, Ordering::Release);
        // Wakes the listener up.
        drop(TcpStream::connect(self.address));
        self.cut();
    }
}

fn serve(mut stream: TcpStream, cluster: &Mutex<ModelCluster>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut memory = BytesMut::new();
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = usize::try_from(i32::from_be_bytes(length)).map_err(io::Error::other)?;
        memory.resize(length, 0);
        stream.read_exact(&mut memory)?;
        let frame = memory.split().freeze();
        let answer =
            cluster
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .handle(1, frame.clone(), |_, _| Fault::None);
        if let Ok(again) = frame.try_into_mut() {
            memory = again;
        }
        if let Some(answer) = answer {
            let mut out = i32::try_from(answer.len()).map_err(io::Error::other)?.to_be_bytes().to_vec();
            out.extend_from_slice(&answer);
            stream.write_all(&out)?;
        }
    }
}
