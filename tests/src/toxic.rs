//! The network between the parties, as bad as a test wants it.
//!
//! A [`Network`] puts a door (a listening address) in front of each party; whoever wants to reach the party dials
//! the door. Which party dials is read off `/proc`, by the process that owns the other end, so that one address
//! serves everybody and each direction between each two parties can still be spoiled on its own. Nothing here
//! needs root, save that a process which hides its descriptors (`PR_SET_DUMPABLE`) is seen only by root; such a
//! party gets [doors of its own](Network::door_of).
//!
//! TCP's promise is kept: a cut keeps bytes back and lets them through when it heals, as retransmission would. Bytes
//! are never dropped from a stream that goes on.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// A party that no process was named for: the test itself, curl, a browser.
pub const STRANGER: &str = "stranger";

const CHUNK: usize = 16 * 1024;
/// Chunks under way in one direction of one connection; then the sender feels the pressure.
const UNDER_WAY: usize = 256;

/// What happens to the bytes of one direction.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Flow {
    /// Nothing passes until this is taken back; connections stay open.
    pub cut: bool,
    pub latency: Duration,
    /// At most so much more than `latency`, anew for each chunk; order is kept.
    pub jitter: Duration,
    /// None: as fast as it goes.
    pub bytes_per_second: Option<u64>,
    /// How long the end of the stream is kept back.
    pub late_close: Duration,
}

/// What happens between two parties: `forth` are the dialling party's bytes, `back` the answers.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    pub forth: Flow,
    pub back: Flow,
    /// New connections are reset at once.
    pub refuse: bool,
    /// Connections older than this count of resets are reset.
    resets: u64,
}

/// All doors, who is behind them, and the rules between any two parties.
pub struct Network {
    shared: Arc<Shared>,
    runtime: tokio::runtime::Runtime,
}

struct Shared {
    rules: Mutex<BTreeMap<(String, String), watch::Sender<Rules>>>,
    parties: Mutex<HashMap<u32, String>>,
    targets: Mutex<BTreeMap<String, SocketAddr>>,
    passed: Mutex<BTreeMap<(String, String), Arc<AtomicU64>>>,
    dice: AtomicU64,
    /// Every byte that passed, where a test asked for it.
    captured: Option<Mutex<Vec<u8>>>,
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}

impl Network {
    pub fn new() -> Self {
        Self::made(false)
    }

    /// One that remembers every byte: what a wiretap has.
    pub fn tapped() -> Self {
        Self::made(true)
    }

    fn made(tapped: bool) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("toxic")
            .enable_all()
            .build()
            .unwrap();
        let shared = Shared {
            rules: Mutex::default(),
            parties: Mutex::default(),
            targets: Mutex::default(),
            passed: Mutex::default(),
            dice: AtomicU64::new(0x9E37_79B9_7F4A_7C15),
            captured: tapped.then(Mutex::default),
        };
        Self { shared: Arc::new(shared), runtime }
    }

    /// Opens a door in front of party `to`, which listens on `target`. What is dialled is returned.
    pub fn door(&self, to: &str, target: SocketAddr) -> SocketAddr {
        self.opened(None, to, target)
    }

    /// A door that only `from` knows of: whoever dials it is taken for that party.
    pub fn door_of(&self, from: &str, to: &str, target: SocketAddr) -> SocketAddr {
        self.opened(Some(from.to_owned()), to, target)
    }

    fn opened(&self, from: Option<String>, to: &str, target: SocketAddr) -> SocketAddr {
        let listener = self.runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let key = format!("{to} {address}");
        self.shared.targets.lock().unwrap().insert(key.clone(), target);
        let (shared, to) = (Arc::clone(&self.shared), to.to_owned());
        self.runtime.spawn(async move {
            while let Ok((inbound, peer)) = listener.accept().await {
                let from = from.clone().unwrap_or_else(|| shared.who(peer, address));
                let target = shared.targets.lock().unwrap()[&key];
                tokio::spawn(carry(Arc::clone(&shared), inbound, target, from, to.clone()));
            }
        });
        address
    }

    /// The party behind this door listens somewhere else from now on.
    pub fn retarget(&self, to: &str, door: SocketAddr, target: SocketAddr) {
        let former = self.shared.targets.lock().unwrap().insert(format!("{to} {door}"), target);
        assert!(former.is_some(), "{to} has no door at {door}");
    }

    /// Connections dialled by this process are this party's.
    pub fn name(&self, process: u32, party: &str) {
        self.shared.parties.lock().unwrap().insert(process, party.to_owned());
    }

    /// Changes what happens on connections that `from` dials to `to`, those that are open included.
    pub fn change(&self, from: &str, to: &str, change: impl FnOnce(&mut Rules)) {
        self.shared.between(from, to).send_modify(change);
    }

    /// Bytes of `from` do not reach `to` any more, whoever dialled.
    pub fn cut(&self, from: &str, to: &str) {
        self.change(from, to, |rules| rules.forth.cut = true);
        self.change(to, from, |rules| rules.back.cut = true);
    }

    /// Neither hears the other.
    pub fn part(&self, one: &str, other: &str) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// Resets every connection that `from` has to `to`.
    pub fn reset(&self, from: &str, to: &str) {
        self.change(from, to, |rules| rules.resets += 1);
    }

    /// Everything between all parties as it was at first, and connections that were cut are reset, so that nobody
    /// waits for TCP to notice.
    pub fn heal(&self) {
        for rules in self.shared.rules.lock().unwrap().values() {
            rules.send_modify(|rules| {
                let spoiled = rules.refuse || rules.forth.cut || rules.back.cut;
                let resets = rules.resets + u64::from(spoiled);
                *rules = Rules { resets, ..Rules::default() };
            });
        }
    }

    /// Like [`heal`](Self::heal), but what was kept back is let through on the same connections.
    pub fn resume(&self) {
        for rules in self.shared.rules.lock().unwrap().values() {
            rules.send_modify(|rules| *rules = Rules { resets: rules.resets, ..Rules::default() });
        }
    }

    /// Bytes that passed from `from` to `to`, whoever dialled.
    pub fn passed(&self, from: &str, to: &str) -> u64 {
        self.shared.counter(from, to).load(Ordering::Relaxed)
    }

    /// What a wiretap has so far.
    pub fn captured(&self) -> Vec<u8> {
        self.shared.captured.as_ref().expect("a tapped network").lock().unwrap().clone()
    }
}

impl Shared {
    fn between(&self, from: &str, to: &str) -> watch::Sender<Rules> {
        let key = (from.to_owned(), to.to_owned());
        let mut rules = self.rules.lock().unwrap();
        rules.entry(key).or_insert_with(|| watch::channel(Rules::default()).0).clone()
    }

    fn counter(&self, from: &str, to: &str) -> Arc<AtomicU64> {
        let key = (from.to_owned(), to.to_owned());
        Arc::clone(self.passed.lock().unwrap().entry(key).or_default())
    }

    fn who(&self, peer: SocketAddr, door: SocketAddr) -> String {
        let parties = self.parties.lock().unwrap().clone();
        let found = socket_inode(peer, door).and_then(|inode| {
            let socket = format!("socket:[{inode}]");
            parties.iter().find(|(process, _)| holds(**process, &socket)).map(|(_, n)| n.clone())
        });
        found.unwrap_or_else(|| STRANGER.to_owned())
    }

    /// Up to `most`, by a xorshift: what matters is that chunks differ.
    fn roll(&self, most: Duration) -> Duration {
        let next = |mut x: u64| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^ (x << 17)
        };
        let rolled =
            self.dice.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |x| Some(next(x)));
        let (Ok(x) | Err(x)) = rolled;
        most.mul_f64((x >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

/// The inode of the socket at `peer` that is connected to `door`.
fn socket_inode(peer: SocketAddr, door: SocketAddr) -> Option<u64> {
    let written = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => {
            Some(format!("{:08X}:{:04X}", u32::from_le_bytes(v4.ip().octets()), v4.port()))
        }
        SocketAddr::V6(_) => None,
    };
    let (local, remote) = (written(peer)?, written(door)?);
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(1) == Some(&local.as_str()) && fields.get(2) == Some(&remote.as_str()))
            .then(|| fields.get(9)?.parse().ok())
            .flatten()
    })
}

fn holds(process: u32, socket: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    entries
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .any(|link| link.to_str() == Some(socket))
}

async fn carry(
    shared: Arc<Shared>,
    mut inbound: TcpStream,
    target: SocketAddr,
    from: String,
    to: String,
) {
    let mut rules = shared.between(&from, &to).subscribe();
    let resets = rules.borrow_and_update().resets;
    if rules.borrow().refuse {
        let _ = inbound.set_zero_linger();
        return;
    }
    let Ok(mut outbound) = TcpStream::connect(target).await else {
        // Whoever dials is told what a closed port tells.
        let _ = inbound.set_zero_linger();
        return;
    };
    for stream in [&inbound, &outbound] {
        let _ = stream.set_nodelay(true);
        // Dropped in the middle means reset; streams that ended on both sides are closed in good order below.
        let _ = stream.set_zero_linger();
    }
    let forth = Direction {
        shared: Arc::clone(&shared),
        rules: rules.clone(),
        pick: |rules| &rules.forth,
        passed: shared.counter(&from, &to),
    };
    let back = Direction {
        pick: |rules| &rules.back,
        passed: shared.counter(&to, &from),
        ..forth.clone()
    };
    {
        let (inbound_read, inbound_write) = inbound.split();
        let (outbound_read, outbound_write) = outbound.split();
        tokio::select! {
            _ = rules.wait_for(|now| now.resets > resets) => return,
            _ = async {
                tokio::join!(
                    forth.pump(inbound_read, outbound_write),
                    back.pump(outbound_read, inbound_write)
                )
            } => {}
        }
    }
    for stream in [&inbound, &outbound] {
        let _ = socket2::SockRef::from(stream).set_linger(None);
    }
}

#[derive(Clone)]
struct Direction {
    shared: Arc<Shared>,
    rules: watch::Receiver<Rules>,
    pick: fn(&Rules) -> &Flow,
    passed: Arc<AtomicU64>,
}

impl Direction {
    fn flow(&self) -> Flow {
        (self.pick)(&self.rules.borrow()).clone()
    }

    async fn until_whole(&self) {
        let pick = self.pick;
        let _ = self.rules.clone().wait_for(|rules| !pick(rules).cut).await;
    }

    /// Until the stream ends.
    async fn pump(&self, mut read: ReadHalf<'_>, mut write: WriteHalf<'_>) {
        let (sender, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
        let reading = async move {
            let mut due = Instant::now();
            loop {
                let mut chunk = vec![0; CHUNK];
                let length = read.read(&mut chunk).await.unwrap_or(0);
                chunk.truncate(length);
                let flow = self.flow();
                due = due.max(Instant::now() + flow.latency + self.shared.roll(flow.jitter));
                if length == 0 {
                    due += flow.late_close;
                }
                if sender.send((due, chunk)).await.is_err() || length == 0 {
                    return;
                }
            }
        };
        let writing = async move {
            while let Some((due, chunk)) = under_way.recv().await {
                tokio::time::sleep_until(due).await;
                self.until_whole().await;
                if chunk.is_empty() {
                    let _ = write.shutdown().await;
                    return;
                }
                if let Some(rate) = self.flow().bytes_per_second {
                    tokio::time::sleep(Duration::from_secs_f64(
                        chunk.len() as f64 / rate.max(1) as f64,
                    ))
                    .await;
                    self.until_whole().await;
                }
                self.passed.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                if let Some(captured) = &self.shared.captured {
                    captured.lock().unwrap().extend_from_slice(&chunk);
                }
                if write.write_all(&chunk).await.is_err() {
                    // The reader is stopped by the channel; whoever sends feels it at the next chunk.
                    return;
                }
            }
        };
        tokio::join!(reading, writing);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);
    /// How long a test watches for what must not happen.
    const WATCHED: Duration = Duration::from_millis(300);

    /// Whoever is behind the door: gives the connections that arrive.
    fn party(network: &Network, name: &str) -> (SocketAddr, mpsc::Receiver<TcpStream>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let door = network.door(name, listener.local_addr().unwrap());
        let (arrived, connections) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if arrived.send(stream.unwrap()).is_err() {
                    return;
                }
            }
        });
        (door, connections)
    }

    fn pair(network: &Network) -> (TcpStream, TcpStream) {
        network.name(std::process::id(), "a");
        let (door, connections) = party(network, "b");
        let dialled = TcpStream::connect(door).unwrap();
        (dialled, connections.recv_timeout(SOON).unwrap())
    }

    fn hears(stream: &mut TcpStream, expected: &[u8]) {
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut heard = vec![0; expected.len()];
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(heard, expected);
    }

    fn hears_nothing(stream: &mut TcpStream) {
        stream.set_read_timeout(Some(WATCHED)).unwrap();
        let error = stream.read(&mut [0]).expect_err("nothing was to be heard");
        assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    }

    #[test]
    fn bytes_pass_both_ways_unchanged_and_are_counted_and_captured() {
        let network = Network::tapped();
        let (mut a, mut b) = pair(&network);
        let long: Vec<u8> = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
        let sent = long.clone();
        let sending = std::thread::spawn(move || {
            a.write_all(&sent).unwrap();
            a
        });
        hears(&mut b, &long);
        let mut a = sending.join().unwrap();
        b.write_all(b"answer").unwrap();
        hears(&mut a, b"answer");
        assert_eq!((network.passed("a", "b"), network.passed("b", "a")), (300_000, 6));
        assert_eq!(network.captured().len(), 300_006);
        a.shutdown(std::net::Shutdown::Write).unwrap();
        b.set_read_timeout(Some(SOON)).unwrap();
        assert_eq!(b.read(&mut [0]).unwrap(), 0, "the end of one direction passes");
        b.write_all(b"still").unwrap();
        hears(&mut a, b"still");
    }

    #[test]
    fn a_cut_of_one_direction_leaves_the_other_and_heals_without_loss() {
        let network = Network::new();
        let (mut a, mut b) = pair(&network);
        network.cut("a", "b");
        a.write_all(b"unheard").unwrap();
        hears_nothing(&mut b);
        b.write_all(b"heard").unwrap();
        hears(&mut a, b"heard");
        network.resume();
        hears(&mut b, b"unheard");
    }

    #[test]
    fn a_cut_holds_whoever_dialled_and_only_between_these_two() {
        let network = Network::new();
        let (mut a, mut b) = pair(&network);
        network.cut("b", "a");
        b.write_all(b"unheard").unwrap();
        hears_nothing(&mut a);
        a.write_all(b"heard").unwrap();
        hears(&mut b, b"heard");
        let (door, connections) = party(&network, "c");
        let mut to_c = TcpStream::connect(door).unwrap();
        let mut c = connections.recv_timeout(SOON).unwrap();
        c.write_all(b"unhindered").unwrap();
        hears(&mut to_c, b"unhindered");
    }

    #[test]
    fn a_new_connection_under_a_cut_hangs_and_is_reset_by_healing() {
        let network = Network::new();
        network.name(std::process::id(), "a");
        let (door, connections) = party(&network, "b");
        network.part("a", "b");
        let mut a = TcpStream::connect(door).unwrap();
        a.write_all(b"hello?").unwrap();
        let mut b = connections.recv_timeout(SOON).unwrap();
        hears_nothing(&mut b);
        network.heal();
        a.set_read_timeout(Some(SOON)).unwrap();
        let ended = a.read(&mut [0]);
        assert!(matches!(&ended, Err(e) if e.kind() == ErrorKind::ConnectionReset), "{ended:?}");
        let mut again = TcpStream::connect(door).unwrap();
        again.write_all(b"hello").unwrap();
        hears(&mut connections.recv_timeout(SOON).unwrap(), b"hello");
    }

    #[test]
    fn a_reset_is_seen_at_both_ends_and_a_refusal_at_once() {
        let network = Network::new();
        let (mut a, mut b) = pair(&network);
        network.reset("a", "b");
        for end in [&mut a, &mut b] {
            end.set_read_timeout(Some(SOON)).unwrap();
            let ended = end.read(&mut [0]);
            assert!(
                matches!(&ended, Err(e) if e.kind() == ErrorKind::ConnectionReset),
                "{ended:?}"
            );
        }
        let (door, connections) = party(&network, "c");
        network.change("a", "c", |rules| rules.refuse = true);
        let mut refused = TcpStream::connect(door).unwrap();
        refused.set_read_timeout(Some(SOON)).unwrap();
        assert!(refused.read(&mut [0]).is_err());
        assert!(connections.recv_timeout(WATCHED).is_err(), "the party hears nothing of it");
    }

    #[test]
    fn latency_jitter_and_throttle_delay_and_keep_the_order() {
        let network = Network::new();
        let (mut a, mut b) = pair(&network);
        let (latency, jitter) = (Duration::from_millis(60), Duration::from_millis(40));
        network.change("a", "b", |rules| rules.forth = Flow { latency, jitter, ..Flow::default() });
        let start = Instant::now();
        for number in 0..10_u8 {
            a.write_all(&[number]).unwrap();
        }
        hears(&mut b, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert!(start.elapsed() >= latency, "{:?}", start.elapsed());

        network.change("a", "b", |rules| {
            rules.forth = Flow { bytes_per_second: Some(100_000), ..Flow::default() };
        });
        let start = Instant::now();
        a.write_all(&[7; 20_000]).unwrap();
        hears(&mut b, &[7; 20_000]);
        assert!(start.elapsed() >= Duration::from_millis(180), "{:?}", start.elapsed());
    }

    #[test]
    fn a_late_close_keeps_back_the_end_and_nothing_else() {
        let network = Network::new();
        let (mut a, mut b) = pair(&network);
        let late_close = Duration::from_millis(400);
        network.change("a", "b", |rules| rules.forth.late_close = late_close);
        let start = Instant::now();
        a.write_all(b"last words").unwrap();
        drop(a);
        hears(&mut b, b"last words");
        b.set_read_timeout(Some(SOON)).unwrap();
        assert_eq!(b.read(&mut [0]).unwrap(), 0);
        assert!(start.elapsed() >= late_close);
    }

    #[test]
    fn who_dials_is_known_by_the_process_and_strangers_are_nobody() {
        let network = Network::new();
        let (door, connections) = party(&network, "b");
        network.cut("a", "b");
        let mut stranger = TcpStream::connect(door).unwrap();
        stranger.write_all(b"not of a").unwrap();
        hears(&mut connections.recv_timeout(SOON).unwrap(), b"not of a");
        assert_eq!((network.passed(STRANGER, "b"), network.passed("a", "b")), (8, 0));
    }

    #[test]
    fn a_party_that_has_moved_is_found_behind_the_same_door() {
        let network = Network::new();
        let (door, connections) = party(&network, "b");
        let moved = TcpListener::bind("127.0.0.1:0").unwrap();
        network.retarget("b", door, moved.local_addr().unwrap());
        let mut a = TcpStream::connect(door).unwrap();
        a.write_all(b"there").unwrap();
        let (mut b, _) = moved.accept().unwrap();
        hears(&mut b, b"there");
        assert!(connections.try_recv().is_err(), "nobody is where it was");
    }
}
