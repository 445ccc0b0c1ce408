//! Many sockets that receive the same frames, read by one thread in the order in which the server
//! writes to them.
//!
//! The thread polls and never blocks in the kernel: waking a sleeping reader can cost the writer
//! more than the write itself.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::Outcome;
use super::client::frame;

/// How long the thread sleeps if nothing has arrived yet.
const NAP: Duration = Duration::from_micros(50);
/// Every this many rounds all sockets are read, including those after many empty ones.
const FULL_SCAN_INTERVAL: usize = 10;
/// After this many empty sockets in a row, the ones after them are assumed to be empty too.
const MISSES: usize = 64;
const WAIT_LIMIT: Duration = Duration::from_secs(20);

/// The sockets.
pub struct ClientPool {
    sockets: Vec<TcpStream>,
    /// The order in which the sockets received the previous frames.
    order: VecDeque<usize>,
    got: Vec<usize>,
    buffer: Vec<u8>,
    rounds: usize,
}

impl ClientPool {
    /// Expects sockets without unread data.
    pub fn new(sockets: Vec<TcpStream>) -> Outcome<ClientPool> {
        sockets
            .iter()
            .try_for_each(|socket| socket.set_nonblocking(true))?;
        let order = (0..sockets.len()).collect();
        let got = vec![0; sockets.len()];
        Ok(ClientPool {
            sockets,
            order,
            got,
            buffer: vec![0; 262_144],
            rounds: 0,
        })
    }

    /// The number of sockets.
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Reads this many frames from each socket. Fails if one receives more or fewer bytes than the
    /// others.
    pub fn take(&mut self, frames: usize) -> Outcome<()> {
        let began = Instant::now();
        let mut left = std::mem::take(&mut self.order).into_iter();
        let Some(first) = left.next() else {
            return Ok(());
        };
        let mut left: Vec<usize> = left.collect();
        let length = self.take_first(first, frames, began)?;
        let mut done = Vec::with_capacity(self.sockets.len());
        done.push(first);
        let most_misses = if self.rounds < FULL_SCAN_INTERVAL {
            usize::MAX
        } else {
            MISSES
        };
        loop {
            let mut waiting = Vec::new();
            let mut misses = 0;
            let mut looks = left.iter();
            for socket in looks.by_ref() {
                let read = read(&mut self.sockets[*socket], &mut self.buffer)?;
                misses = if read == 0 { misses + 1 } else { 0 };
                self.got[*socket] += read;
                if self.got[*socket] < length {
                    waiting.push(*socket);
                } else if self.got[*socket] == length {
                    self.got[*socket] = 0;
                    done.push(*socket);
                } else {
                    return Err(
                        format!("{} bytes where others got {length}", self.got[*socket]).into(),
                    );
                }
                if misses == most_misses {
                    break;
                }
            }
            waiting.extend(looks);
            if waiting.is_empty() {
                break;
            }
            nap(began)?;
            left = waiting;
        }
        self.order = done.into();
        self.rounds += 1;
        Ok(())
    }

    /// Reads once from each socket that has data, starting with the one that has waited longest,
    /// and passes the data on with the socket's number. Returns whether anything arrived.
    pub fn read_available(&mut self, mut each: impl FnMut(usize, &[u8])) -> Outcome<bool> {
        self.rounds += 1;
        // A socket that no longer receives anything must not hide those after it.
        let most_misses = if self.rounds.is_multiple_of(FULL_SCAN_INTERVAL) {
            usize::MAX
        } else {
            MISSES
        };
        let mut missed = Vec::new();
        let mut misses = 0;
        let mut any = false;
        for _ in 0..self.order.len() {
            let Some(socket) = self.order.pop_front() else {
                break;
            };
            let read = read(&mut self.sockets[socket], &mut self.buffer)?;
            if read > 0 {
                each(socket, &self.buffer[..read]);
                self.order.push_back(socket);
                (misses, any) = (0, true);
                continue;
            }
            missed.push(socket);
            misses += 1;
            if misses == most_misses {
                break;
            }
        }
        missed
            .into_iter()
            .rev()
            .for_each(|socket| self.order.push_front(socket));
        Ok(any)
    }

    /// The length of the frames in bytes, measured on the first socket.
    fn take_first(&mut self, socket: usize, frames: usize, began: Instant) -> Outcome<usize> {
        let mut end = 0;
        let mut taken = 0;
        let mut seen = 0;
        while seen < frames {
            match read(&mut self.sockets[socket], &mut self.buffer[end..])? {
                0 => nap(began)?,
                read => end += read,
            }
            while let Some((_, length)) = frame(&self.buffer[taken..end]) {
                taken += length;
                seen += 1;
            }
        }
        if seen == frames && taken == end {
            Ok(end)
        } else {
            Err("more bytes were received than sent".into())
        }
    }
}

/// The number of bytes read; 0 if there were none.
fn read(socket: &mut TcpStream, buffer: &mut [u8]) -> Outcome<usize> {
    match socket.read(buffer) {
        Ok(0) => Err("the server has closed a connection".into()),
        Ok(read) => Ok(read),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(error.into()),
    }
}

fn nap(began: Instant) -> Outcome<()> {
    std::thread::sleep(NAP);
    if began.elapsed() < WAIT_LIMIT {
        Ok(())
    } else {
        Err(format!("not all frames came within {WAIT_LIMIT:?}").into())
    }
}
