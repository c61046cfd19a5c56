//! A server that is there already: it works on `slots` requests at once and no more, has models of these names, and may
//! want an API key.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

/// The properties of the server.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// Requests that it works on at once.
    pub slots: usize,
    /// From the moment at which it begins with a request to the first token.
    pub first: Duration,
    /// And to the last.
    pub work: Duration,
    /// Its models; it lists none where this is empty.
    pub models: Vec<&'static str>,
    /// The API key that completions want. Lists are free for all, as llama.cpp has it.
    pub key: Option<&'static str>,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            slots: 8,
            first: Duration::from_millis(1),
            work: Duration::from_millis(2),
            models: vec!["tiny"],
            key: None,
        }
    }
}

impl Gateway {
    /// Starts it; it ends with the test's process.
    pub fn serve(self) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let free = Arc::new((Mutex::new(self.slots), Condvar::new()));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (gateway, free) = (self.clone(), Arc::clone(&free));
                // A client that goes away is none of its business.
                thread::spawn(move || drop(gateway.answer(stream, &free)));
            }
        });
        address
    }

    /// Answers the requests of one connection.
    fn answer(&self, stream: TcpStream, free: &(Mutex<usize>, Condvar)) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut writer = stream;
        loop {
            let (mut line, mut length, mut key) = (String::new(), 0, String::new());
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let asked = line.clone();
            loop {
                line.clear();
                reader.read_line(&mut line)?;
                let header = line.trim_end();
                if let Some((name, value)) = header.split_once(": ") {
                    match &*name.to_ascii_lowercase() {
                        "content-length" => length = value.parse().unwrap_or(0),
                        "authorization" => key = value.replace("Bearer ", ""),
                        _ => {}
                    }
                }
                if header.is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body)?;
            if asked.starts_with("GET /v1/models") && !self.models.is_empty() {
                let models: Vec<Value> = self
                    .models
                    .iter()
                    .map(|name| json!({ "id": name }))
                    .collect();
                whole(&mut writer, "200 OK", &json!({ "data": models }))?;
            } else if !asked.starts_with("POST /v1/completions") {
                whole(&mut writer, "404 Not Found", &json!({}))?;
            } else if self.key.is_some_and(|wanted| wanted != key) {
                // As some do, it repeats what it was given.
                let said = format!("Incorrect API key provided: {key}");
                whole(&mut writer, "401 Unauthorized", &json!({ "error": said }))?;
            } else {
                let body: Value = serde_json::from_slice(&body)?;
                self.complete(&mut writer, body["max_tokens"].as_u64().unwrap_or(1), free)?;
            }
        }
    }

    /// Writes a stream of `tokens` tokens as soon as there is room for it.
    fn complete(
        &self,
        writer: &mut TcpStream,
        tokens: u64,
        (slots, freed): &(Mutex<usize>, Condvar),
    ) -> std::io::Result<()> {
        writer.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
        )?;
        {
            let mut slots = freed
                .wait_while(slots.lock().unwrap(), |slots| *slots == 0)
                .unwrap();
            *slots -= 1;
        }
        let mut events = || {
            thread::sleep(self.first);
            event(writer, &token(tokens == 1))?;
            thread::sleep(self.work - self.first);
            for left in (1..tokens).rev() {
                event(writer, &token(left == 1))?;
            }
            event(writer, "[DONE]")?;
            writer.write_all(b"0\r\n\r\n")
        };
        let told = events();
        *slots.lock().unwrap() += 1;
        freed.notify_one();
        told
    }
}

fn whole(writer: &mut TcpStream, status: &str, body: &Value) -> std::io::Result<()> {
    let body = body.to_string();
    let length = body.len();
    write!(
        writer,
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

fn token(is_last: bool) -> String {
    let reason = if is_last { "\"length\"" } else { "null" };
    format!(
        r#"{{"choices": [{{"index": 0, "text": "x", "token_ids": [5], "finish_reason": {reason}}}]}}"#
    )
}

fn event(writer: &mut TcpStream, data: &str) -> std::io::Result<()> {
    let event = format!("data: {data}\n\n");
    write!(writer, "{:x}\r\n{event}\r\n", event.len())?;
    writer.flush()
}
