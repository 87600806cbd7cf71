//! How a clerk finds a first node among the addresses that its user gave.
//!
//! Invariants:
//! - It ends within its time, whatever name servers and strangers do.
//! - Of each address at most one look-up is under way: one that outlasts its turn is waited for in the
//!   next round, and never repeated beside itself.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::TcpError;
use super::clerk::TcpClerkOptions;
use super::event::CloseReason;
use super::handshake::{Accept, Hello, introduce};
use super::link::{connect, resolve};
use super::options::millis;

/// How long to wait between two rounds through the addresses.
const ROUND_PAUSE: Duration = Duration::from_millis(50);

type Resolved = Result<Vec<SocketAddr>, CloseReason>;

/// Looks up a name, for as long as it takes.
type Resolve = fn(&str) -> Resolved;

/// The first node that accepts, and at which address.
pub(super) fn find_node(
    addresses: &[String],
    options: &TcpClerkOptions,
) -> Result<(String, Arc<TcpStream>, Accept), TcpError> {
    find_node_by(addresses, options, resolve)
}

fn find_node_by(
    addresses: &[String],
    options: &TcpClerkOptions,
    resolve: Resolve,
) -> Result<(String, Arc<TcpStream>, Accept), TcpError> {
    let hello = Hello::clerk(options.cluster_id, None);
    let deadline = Instant::now() + millis(options.connect_timeout_ms);
    let mut places: Vec<Place> = addresses
        .iter()
        .map(|address| Place {
            address,
            resolve,
            under_way: None,
        })
        .collect();
    loop {
        let mut failures = Vec::new();
        let count = places.len();
        for (at, place) in places.iter_mut().enumerate() {
            // An address that swallows everything must leave time for those after it.
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / (count - at) as u32;
            match place.dial(&hello, options, Instant::now() + share) {
                Ok((stream, accept)) => return Ok((place.address.to_owned(), stream, accept)),
                Err(reason) => failures.push((place.address.to_owned(), reason)),
            }
        }
        let hopeless = failures.iter().all(|(_, reason)| is_final(reason));
        if hopeless || Instant::now() + ROUND_PAUSE >= deadline {
            return Err(TcpError::Unreachable { failures });
        }
        thread::sleep(ROUND_PAUSE);
    }
}

/// Whether trying again cannot help.
fn is_final(reason: &CloseReason) -> bool {
    match reason {
        CloseReason::NotQuorate
        | CloseReason::Version { .. }
        | CloseReason::WrongCluster { .. } => true,
        // It is no address at all.
        CloseReason::Resolve(error) => error.kind() == io::ErrorKind::InvalidInput,
        _ => false,
    }
}

/// One of the addresses.
struct Place<'a> {
    address: &'a str,
    resolve: Resolve,
    /// A look-up that has not ended.
    under_way: Option<Receiver<Resolved>>,
}

impl Place<'_> {
    /// One attempt, which ends by then.
    fn dial(
        &mut self,
        hello: &Hello,
        options: &TcpClerkOptions,
        until: Instant,
    ) -> Result<(Arc<TcpStream>, Accept), CloseReason> {
        let left = || {
            let left = until.saturating_duration_since(Instant::now());
            left.max(Duration::from_millis(1))
        };
        let resolved = self.look_up(left())?;
        let stream = connect(&resolved, left().min(options.limits.connect_timeout()))?;
        let stream = Arc::new(stream);
        let accept = introduce(
            &stream,
            hello,
            left().min(options.limits.handshake_timeout()),
        )?;
        Ok((stream, accept))
    }

    fn look_up(&mut self, timeout: Duration) -> Resolved {
        if let Ok(number) = self.address.parse() {
            return Ok(vec![number]);
        }
        let under_way = match self.under_way.take() {
            Some(under_way) => under_way,
            None => self
                .begin()
                .map_err(|error| CloseReason::Io(error.into()))?,
        };
        match under_way.recv_timeout(timeout) {
            Ok(resolved) => resolved,
            Err(RecvTimeoutError::Timeout) => {
                self.under_way = Some(under_way);
                Err(CloseReason::ResolveTimeout {
                    timeout_ms: timeout.as_millis() as u64,
                })
            }
            Err(RecvTimeoutError::Disconnected) => {
                Err(CloseReason::Resolve(io::ErrorKind::Other.into()))
            }
        }
    }

    fn begin(&self) -> io::Result<Receiver<Resolved>> {
        let (give, take) = mpsc::sync_channel(1);
        let (address, resolve) = (self.address.to_owned(), self.resolve);
        thread::Builder::new()
            .name("quorate-resolve".to_owned())
            .spawn(move || {
                let _nobody_waits = give.send(resolve(&address));
            })?;
        Ok(take)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use parking_lot::{Condvar, Mutex};

    use super::*;

    fn options(connect_timeout_ms: u64) -> TcpClerkOptions {
        TcpClerkOptions {
            connect_timeout_ms,
            ..TcpClerkOptions::default()
        }
    }

    fn failures(found: Result<(String, Arc<TcpStream>, Accept), TcpError>) -> Vec<CloseReason> {
        match found {
            Err(TcpError::Unreachable { failures }) => {
                failures.into_iter().map(|(_, reason)| reason).collect()
            }
            Err(other) => panic!("{other}"),
            Ok((address, ..)) => panic!("{address} accepted"),
        }
    }

    static LOOK_UPS: AtomicUsize = AtomicUsize::new(0);
    static IS_OVER: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());

    /// A name server that answers when the test is over.
    fn resolve_late(_: &str) -> Resolved {
        LOOK_UPS.fetch_add(1, Ordering::Relaxed);
        let (is_over, changed) = &IS_OVER;
        changed.wait_while(&mut is_over.lock(), |is_over| !*is_over);
        Err(CloseReason::Stopped)
    }

    /// Lets the threads end, also when the test fails.
    struct EndOfTest;

    impl Drop for EndOfTest {
        fn drop(&mut self) {
            *IS_OVER.0.lock() = true;
            IS_OVER.1.notify_all();
        }
    }

    #[test]
    fn a_name_server_that_is_silent_is_not_waited_for_and_not_asked_twice() {
        let _end = EndOfTest;
        // The second one fails at once, and leaves time for several rounds.
        let addresses = ["one.example:7400".to_owned(), "127.0.0.1:1".to_owned()];
        let found = failures(find_node_by(&addresses, &options(400), resolve_late));
        assert!(
            matches!(found[0], CloseReason::ResolveTimeout { .. }),
            "{found:?}"
        );
        assert_eq!(LOOK_UPS.load(Ordering::Relaxed), 1, "whatever the rounds");
    }

    #[test]
    fn what_the_resolver_says_is_kept_and_the_hint_fits() {
        let refused = |_: &str| -> Resolved {
            let error = io::Error::other("failed to look it up: no such host");
            Err(CloseReason::Resolve(error.into()))
        };
        let names = ["nowhere.example:7400".to_owned()];
        let told = failures(find_node_by(&names, &options(1_000), refused))[0].to_string();
        assert!(told.contains("no such host"), "{told}");
        assert!(
            told.contains("check the name") && !told.contains("host:port"),
            "{told}"
        );
        for no_address in ["nowhere", "127.0.0.1:99999", ""] {
            let names = [no_address.to_owned()];
            // Would outlast the test: trying again cannot help, and is not done.
            let told = failures(find_node(&names, &options(3_600_000)))[0].to_string();
            assert!(told.contains("host:port"), "{told}");
        }
    }

    #[test]
    fn a_failed_connection_says_the_number_of_the_error() {
        let vacant = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = vacant.local_addr().expect("it listens").to_string();
        drop(vacant);
        let told = failures(find_node(&[address], &options(1_000)))[0].to_string();
        assert!(told.contains("refused (os error "), "{told}");
    }
}
