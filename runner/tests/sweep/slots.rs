//! A server that works on so many requests at once and no more, for trials that search how much load it bears.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Duration,
};

/// Requests that the server works on at once.
const SLOTS: usize = 2;
/// From the moment at which it begins with a request to the first token, and to the last.
const FIRST: Duration = Duration::from_millis(5);
const WORK: Duration = Duration::from_millis(400);

/// Starts the server; it ends with the test's process.
pub fn serve() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let free = Arc::new((Mutex::new(SLOTS), Condvar::new()));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let free = Arc::clone(&free);
            // A client that goes away is none of its business.
            thread::spawn(move || drop(answer(stream, &free)));
        }
    });
    address
}

/// Answers the requests of one connection.
fn answer(stream: TcpStream, free: &(Mutex<usize>, Condvar)) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let (mut line, mut length) = (String::new(), 0);
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let asked = line.starts_with("POST /v1/completions");
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let header = line.trim_end().to_ascii_lowercase();
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            if header.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        if !asked {
            writer.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")?;
            continue;
        }
        let body: serde_json::Value = serde_json::from_slice(&body)?;
        let tokens = body["max_tokens"].as_u64().unwrap_or(1);
        writer.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
        )?;
        {
            let (slots, freed) = free;
            let mut slots = freed
                .wait_while(slots.lock().unwrap(), |slots| *slots == 0)
                .unwrap();
            *slots -= 1;
        }
        let mut events = || {
            thread::sleep(FIRST);
            event(&mut writer, &token(tokens == 1))?;
            thread::sleep(WORK - FIRST);
            for left in (1..tokens).rev() {
                event(&mut writer, &token(left == 1))?;
            }
            event(&mut writer, "[DONE]")?;
            writer.write_all(b"0\r\n\r\n")
        };
        let told = events();
        *free.0.lock().unwrap() += 1;
        free.1.notify_one();
        told?;
    }
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
