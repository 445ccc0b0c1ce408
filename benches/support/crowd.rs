//! Many sockets that are all sent the same, read by one thread in the order in which the server
//! writes to them.
//!
//! Nobody waits in the kernel for any of them: who sleeps on a socket has to be woken by whoever
//! writes to it, which can cost the writer more than the write.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::Outcome;
use super::client::frame;

/// How long the thread sleeps where nothing has come yet.
const NAP: Duration = Duration::from_micros(50);
/// How often all are looked at, until it is known in which order they are written to.
const LOOKS_AT_ALL: usize = 10;
/// So many in a row that have nothing yet: those behind them have nothing either.
const MISSES: usize = 64;
const WAIT_LIMIT: Duration = Duration::from_secs(20);

/// The sockets.
pub struct ClientPool {
    sockets: Vec<TcpStream>,
    /// Which of them had got what was sent first, second and so on, the last time.
    order: VecDeque<usize>,
    got: Vec<usize>,
    buffer: Vec<u8>,
    rounds: usize,
}

impl ClientPool {
    /// Sockets on which nothing waits to be read.
    pub fn new(sockets: Vec<TcpStream>) -> Outcome<ClientPool> {
        sockets
            .iter()
            .try_for_each(|socket| socket.set_nonblocking(true))?;
        let (order, got) = ((0..sockets.len()).collect(), vec![0; sockets.len()]);
        Ok(ClientPool {
            sockets,
            order,
            got,
            buffer: vec![0; 262_144],
            rounds: 0,
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Reads so many frames from each. Fails where one is sent more or less than the others.
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
        let most_misses = if self.rounds < LOOKS_AT_ALL {
            usize::MAX
        } else {
            MISSES
        };
        loop {
            let (mut waiting, mut misses) = (Vec::new(), 0);
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

    /// Reads once from each that has something, and gives what it has with its number: first from
    /// that which has waited longest. Says whether anything came.
    pub fn look(&mut self, mut each: impl FnMut(usize, &[u8])) -> Outcome<bool> {
        self.rounds += 1;
        // One that gets nothing any more must not hide those behind it.
        let most_misses = if self.rounds.is_multiple_of(LOOKS_AT_ALL) {
            usize::MAX
        } else {
            MISSES
        };
        let (mut missed, mut misses, mut any) = (Vec::new(), 0, false);
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

    /// How many bytes the frames are, by the first socket.
    fn take_first(&mut self, socket: usize, frames: usize, began: Instant) -> Outcome<usize> {
        let (mut end, mut taken, mut seen) = (0, 0, 0);
        while seen < frames {
            match read(&mut self.sockets[socket], &mut self.buffer[end..])? {
                0 => nap(began)?,
                read => end += read,
            }
            while let Some((_, behind)) = frame(&self.buffer[taken..end]) {
                taken += behind;
                seen += 1;
            }
        }
        if seen == frames && taken == end {
            Ok(end)
        } else {
            Err("more came than was sent".into())
        }
    }
}

/// What has come; 0 where nothing has.
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
