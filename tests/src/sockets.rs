//! A WebSocket server through which a test speaks, frame by frame.

use std::sync::{Arc, Mutex, PoisonError};

use futures::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::world::eventually;

pub struct Sockets {
    port: u16,
    connections: Connections,
    _runtime: Runtime,
}

type Connections = Arc<Mutex<Vec<Connection>>>;

struct Connection {
    path: String,
    heard: Vec<Value>,
    /// None: it is cut, without a word.
    out: mpsc::Sender<Option<Message>>,
    /// The code with which the client has closed it; 0 for none.
    ended: Option<u16>,
}

impl Sockets {
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Connections::default();
        let shared = connections.clone();
        runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, shared.clone()));
            }
        });
        Self { port, connections, _runtime: runtime }
    }

    pub fn url(&self, path: &str) -> String {
        format!("ws://127.0.0.1:{}{path}", self.port)
    }

    /// Waits for a connection, and gives the path that it asked for. They are counted from 0.
    pub fn connected(&self, position: usize) -> String {
        eventually(&format!("connection {position}"), || {
            self.lock().get(position).map(|connection| connection.path.clone())
        })
    }

    pub fn count(&self) -> usize {
        self.lock().len()
    }

    pub fn say(&self, position: usize, frame: &Value) {
        self.put(position, Some(Message::Text(frame.to_string().into())));
    }

    pub fn close(&self, position: usize, code: u16) {
        let frame = CloseFrame { code: code.into(), reason: Default::default() };
        self.put(position, Some(Message::Close(Some(frame))));
    }

    /// Cuts it without a word.
    pub fn cut(&self, position: usize) {
        self.put(position, None);
    }

    /// Everything that came over it so far.
    pub fn heard(&self, position: usize) -> Vec<Value> {
        self.lock()[position].heard.clone()
    }

    /// Waits for a frame like this.
    pub fn hears(&self, position: usize, what: &str, like: impl Fn(&Value) -> bool) -> Value {
        eventually(what, || self.heard(position).into_iter().find(|frame| like(frame)))
    }

    /// Waits until the client has closed it, and gives the code.
    pub fn is_left(&self, position: usize) -> u16 {
        eventually(&format!("connection {position} is left"), || self.lock()[position].ended)
    }

    fn put(&self, position: usize, message: Option<Message>) {
        let out = self.lock()[position].out.clone();
        // To one that is gone already, nothing is said.
        let _ = out.blocking_send(message);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(stream: TcpStream, connections: Connections) {
    let mut path = String::new();
    #[allow(clippy::result_large_err)] // as the library has it
    let seen = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        path = request.uri().to_string();
        Ok(response)
    };
    let Ok(stream) = tokio_tungstenite::accept_hdr_async(stream, seen).await else { return };
    let (out, said) = mpsc::channel(64);
    let position = {
        let mut all = connections.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(Connection { path, heard: Vec::new(), out, ended: None });
        all.len() - 1
    };
    let ended = talk(stream, said, |frame| {
        connections.lock().unwrap_or_else(PoisonError::into_inner)[position].heard.push(frame);
    });
    let ended = ended.await;
    connections.lock().unwrap_or_else(PoisonError::into_inner)[position].ended = Some(ended);
}

/// Until the client has closed the connection, with the code, or it is cut.
async fn talk(
    mut stream: WebSocketStream<TcpStream>,
    mut said: mpsc::Receiver<Option<Message>>,
    mut heard: impl FnMut(Value),
) -> u16 {
    loop {
        tokio::select! {
            said = said.recv() => match said.flatten() {
                // What cannot be sent is noticed as the end of what comes.
                Some(message) => drop(stream.send(message).await),
                None => return 0,
            },
            frame = stream.next() => match frame {
                Some(Ok(Message::Text(text))) => heard(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(close))) => return close.map_or(0, |close| close.code.into()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return 0,
            },
        }
    }
}
