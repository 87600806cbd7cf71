//! The calls: what a user does with keys and values, from any process.

mod answers;

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;
use quorate_kv::{Batch, CommandBuffer, KEY_BYTES_MAX, MapView, Query, Scan, TooLarge};
use quorate_wal::GroupId;

use self::answers::{
    finish_conditional, finish_count, finish_done, finish_entries, finish_existed, finish_length,
    finish_value,
};
use crate::client::{Client, ClientLife, READ_HERE, ReadWants, RemoteLink, ReplyPort};
use crate::error::{Error, OpenError};
use crate::node::Published;
use crate::options::Options;
use crate::partition::{Partitioner, hash};
use crate::pending::{Answer, Pending};
use crate::runtime::{Clock, Timer, threads};
use crate::transport::tcp::{TcpClerkLink, TcpClerkOptions};
use crate::transport::{ClerkInbox, ClerkLink, Consistency};

/// A client: puts, appends, gets, with every write taking effect exactly once, in the order in which this clerk
/// issued them (within a group).
///
/// Clones share one session in each group. Every call has a form that blocks and one that returns a
/// [`Pending`]; thousands may be outstanding. A call that meets a dead or deposed leader looks for
/// the new one by itself until [`Options::call_timeout`].
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let cluster = quorate::Cluster::in_memory(3)?;
/// let clerk = cluster.clerk();
/// clerk.put("motto", "quorate")?;
/// assert_eq!(clerk.append("motto", "!")?, 8);
/// assert_eq!(clerk.get("motto")?.as_deref(), Some(&b"quorate!"[..]));
/// assert!(clerk.compare_and_swap("motto", Some("other"), "no")?.is_err());
/// assert!(clerk.delete("motto")?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Clerk {
    inner: Arc<Inner>,
}

struct Inner {
    client: Arc<Client>,
    /// The replicas in this process, if there are any: reads are answered from their views.
    local: Option<Vec<Arc<Published<MapView>>>>,
    /// Keeps a remote clerk's timer alive.
    timer: Arc<Timer>,
    /// Where its threads are.
    process: threads::Process,
}

/// A compare-and-swap or batch did not find what it expected; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value is not the expected one (step {step})")]
pub struct Conflict {
    /// Which step of the batch, from 0; 0 for a compare-and-swap.
    pub step: u32,
    /// What the key's value is instead, `None` if it is absent.
    pub current: Option<Bytes>,
}

impl Clerk {
    /// Connects to a cluster over TCP. One reachable node is enough: it names the others.
    ///
    /// Fails if none of the addresses answers within [`Options::connect_timeout`], naming why for each.
    pub fn connect<A: Into<String>>(
        addresses: impl IntoIterator<Item = A>,
    ) -> Result<Self, OpenError> {
        Self::connect_with(addresses, &Options::default())
    }

    /// Like [`connect`](Self::connect), with options of the caller's choice.
    pub fn connect_with<A: Into<String>>(
        addresses: impl IntoIterator<Item = A>,
        options: &Options,
    ) -> Result<Self, OpenError> {
        options.validate()?;
        let addresses: Vec<String> = addresses.into_iter().map(Into::into).collect();
        let port = ReplyPort::new(quorate_raft::NodeId(0));
        let inbox = Arc::clone(&port) as Arc<dyn ClerkInbox>;
        let tcp = TcpClerkOptions {
            connect_timeout_ms: u64::try_from(options.connect_timeout.as_millis())
                .unwrap_or(u64::MAX),
            ..TcpClerkOptions::default()
        };
        let link = TcpClerkLink::connect(addresses, tcp, inbox)?;
        let groups = link.groups().unwrap_or(1);
        let clock = Clock::start();
        let timer = Timer::start(clock, options.inline_wakers).map_err(OpenError::Thread)?;
        Ok(Self::over(link, &port, groups, options, clock, &timer))
    }

    /// A clerk over any link whose replies go to `port`.
    pub(crate) fn over(
        link: Arc<dyn ClerkLink>,
        port: &ReplyPort,
        groups: u32,
        options: &Options,
        clock: Clock,
        timer: &Arc<Timer>,
    ) -> Self {
        let nodes = link.nodes();
        let partitioner = Partitioner::hashed(groups);
        let link = Arc::new(RemoteLink(link));
        let client = Client::new(
            link,
            &nodes,
            partitioner,
            options,
            clock,
            Arc::clone(timer),
            ClientLife::draw(None),
        );
        port.bind(&client);
        Self::new(client, None, Arc::clone(timer))
    }

    pub(crate) fn new(
        client: Arc<Client>,
        local: Option<Vec<Arc<Published<MapView>>>>,
        timer: Arc<Timer>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                client,
                local,
                timer,
                process: threads::Process::present(),
            }),
        }
    }

    /// Sets a key's value. When this returns, the write is on the disks of a majority.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<(), Error> {
        self.put_async(key, value).wait()
    }

    /// [`put`](Self::put) without waiting.
    pub fn put_async(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Pending<()> {
        let key = key.as_ref();
        self.write(key, CommandBuffer::put(key, value.as_ref()), finish_done)
    }

    /// Adds to the end of a key's value; an absent key counts as empty. Returns the new length in bytes.
    pub fn append(&self, key: impl AsRef<[u8]>, suffix: impl AsRef<[u8]>) -> Result<u64, Error> {
        self.append_async(key, suffix).wait()
    }

    /// [`append`](Self::append) without waiting.
    pub fn append_async(&self, key: impl AsRef<[u8]>, suffix: impl AsRef<[u8]>) -> Pending<u64> {
        let key = key.as_ref();
        self.write(
            key,
            CommandBuffer::append(key, suffix.as_ref()),
            finish_length,
        )
    }

    /// Removes a key. Returns whether it was there.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        self.delete_async(key).wait()
    }

    /// [`delete`](Self::delete) without waiting.
    pub fn delete_async(&self, key: impl AsRef<[u8]>) -> Pending<bool> {
        let key = key.as_ref();
        self.write(key, CommandBuffer::delete(key), finish_existed)
    }

    /// Sets a key's value if its present one is `expected`; `None` expects the key to be absent.
    pub fn compare_and_swap(
        &self,
        key: impl AsRef<[u8]>,
        expected: Option<impl AsRef<[u8]>>,
        value: impl AsRef<[u8]>,
    ) -> Result<Result<(), Conflict>, Error> {
        self.compare_and_swap_async(key, expected, value).wait()
    }

    /// [`compare_and_swap`](Self::compare_and_swap) without waiting.
    pub fn compare_and_swap_async(
        &self,
        key: impl AsRef<[u8]>,
        expected: Option<impl AsRef<[u8]>>,
        value: impl AsRef<[u8]>,
    ) -> Pending<Result<(), Conflict>> {
        let key = key.as_ref();
        let expected = expected.as_ref().map(AsRef::as_ref);
        self.write(
            key,
            CommandBuffer::compare_and_swap(key, expected, value.as_ref()),
            finish_conditional,
        )
    }

    /// Applies all steps of a batch or none of them. All keys must belong to one group.
    pub fn write_batch(&self, batch: WriteBatch) -> Result<Result<(), Conflict>, Error> {
        self.write_batch_async(batch).wait()
    }

    /// [`write_batch`](Self::write_batch) without waiting.
    pub fn write_batch_async(&self, batch: WriteBatch) -> Pending<Result<(), Conflict>> {
        let partitioner = self.inner.client.partitioner();
        let mut groups = batch
            .hashes
            .iter()
            .map(|&hash| partitioner.group_of_hash(hash));
        let group = groups.next().unwrap_or_default();
        if !groups.all(|other| other == group) {
            return Pending::ready(Err(Error::BatchSpansGroups));
        }
        self.write_in(group, CommandBuffer::batch(batch.batch), finish_conditional)
    }

    /// A key's value, including every write acknowledged to anyone before this call.
    ///
    /// On a [`Db`](crate::Db) the replica in this process answers, once the leader has named what it must have applied. If it
    /// has not applied that within `Options::retry_after` (and half of `Options::call_timeout`), or cannot since its disk is
    /// full or it lost entries, the leader answers; later reads go to the leader at once, until the replica has caught up. The
    /// same holds of [`scan`](Self::scan), [`prefix`](Self::prefix) and [`count`](Self::count).
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Bytes>, Error> {
        self.get_async(key, Consistency::Linearizable).wait()
    }

    /// A key's value, as fresh as asked for.
    pub fn get_with(
        &self,
        key: impl AsRef<[u8]>,
        consistency: Consistency,
    ) -> Result<Option<Bytes>, Error> {
        let key = key.as_ref();
        check_key(key)?;
        // The common lease read costs neither an allocation nor a wake-up.
        if let Some(view) = self.view_now(self.group_of(key), consistency) {
            return Ok(view.get(key));
        }
        self.get_async(key, consistency).wait()
    }

    /// [`get_with`](Self::get_with) without waiting.
    pub fn get_async(
        &self,
        key: impl AsRef<[u8]>,
        consistency: Consistency,
    ) -> Pending<Option<Bytes>> {
        let key = key.as_ref();
        if let Err(error) = check_key(key) {
            return Pending::ready(Err(error));
        }
        let group = self.group_of(key);
        let query = Query::get(key);
        if self.inner.local.is_some() {
            let key = Bytes::copy_from_slice(key);
            let read = move |view: &MapView| view.get(&key);
            return self.read_local_or(group, consistency, query, read, finish_value);
        }
        let (pending, completer) = Pending::over(self.inner.client.wakers(), finish_value);
        let wants = ReadWants::Answer(consistency, query);
        self.inner.client.read(group, wants, completer);
        pending
    }

    /// The entries in a range of keys, in key order, `limit` at most.
    ///
    /// With one group all come from one consistent view; with several each group's share does. What the leader sends to
    /// another process comes in pages of a few megabytes, each from a view of its own, and each as fresh as the call.
    pub fn scan<K: AsRef<[u8]>>(
        &self,
        range: impl RangeBounds<K>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, Error> {
        self.scan_all(&Scan::range(range), limit)
    }

    /// The entries whose keys begin with `prefix`, in key order, `limit` at most. As consistent as [`scan`](Self::scan).
    pub fn prefix(
        &self,
        prefix: impl AsRef<[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, Error> {
        self.scan_all(&Scan::prefix(prefix.as_ref()), limit)
    }

    /// How many keys there are.
    pub fn count(&self) -> Result<u64, Error> {
        let groups: Vec<GroupId> = self.inner.client.partitioner().groups().collect();
        let counts: Vec<Pending<u64>> = groups
            .into_iter()
            .map(|group| self.count_in(group))
            .collect();
        counts.into_iter().map(Pending::wait).sum()
    }

    /// How many groups the keys are spread over.
    pub fn groups(&self) -> u32 {
        self.inner.client.partitioner().count()
    }

    /// The group that a key belongs to. The keys of one [`WriteBatch`] must share theirs.
    pub fn group_of(&self, key: impl AsRef<[u8]>) -> GroupId {
        self.inner.client.partitioner().group(key.as_ref())
    }

    /// Answers of nodes that made no sense, so far: to nothing that was asked, from another node than was asked, or of
    /// another kind. Anything above zero is a node of another version, or somebody in between.
    pub fn rejected_replies(&self) -> u64 {
        self.inner.client.rejected_replies()
    }

    /// Fails what is outstanding with [`Error::Closed`], and every later call. Also happens when the last clone is dropped.
    pub fn close(&self) {
        self.inner.client.close();
    }

    fn write<T: Send + 'static>(
        &self,
        key: &[u8],
        command: Result<CommandBuffer, TooLarge>,
        finish: fn(Answer) -> Result<T, Error>,
    ) -> Pending<T> {
        self.write_in(self.group_of(key), command, finish)
    }

    fn write_in<T: Send + 'static>(
        &self,
        group: GroupId,
        command: Result<CommandBuffer, TooLarge>,
        finish: fn(Answer) -> Result<T, Error>,
    ) -> Pending<T> {
        match command {
            Err(error) => Pending::ready(Err(Error::TooLarge(error))),
            Ok(_) if self.is_out(group) => Pending::ready(Err(Error::Quarantined { group })),
            Ok(command) => {
                let (pending, completer) = Pending::over(self.inner.client.wakers(), finish);
                self.inner.client.write(group, command, completer);
                pending
            }
        }
    }

    /// Whether the only replica of a group is here, and quarantined.
    fn is_out(&self, group: GroupId) -> bool {
        let local = self.inner.local.as_ref();
        local.is_some_and(|local| local[group.0 as usize].is_out())
    }

    /// The view that may answer at once, if there is one here.
    fn view_now(&self, group: GroupId, consistency: Consistency) -> Option<MapView> {
        let published = &self.inner.local.as_ref()?[group.0 as usize];
        if let Some(Error::Failed { .. }) = self.inner.client.closed() {
            return None;
        }
        match consistency {
            Consistency::Stale => published.load(),
            Consistency::Lease => published.load_leased(|| self.inner.client.clock().now_ns()),
            Consistency::Linearizable => None,
        }
    }

    /// Reads from the view of the replica in this process, once that is fresh enough. Nobody else can answer it: it fails at
    /// its deadline if the replica does not catch up.
    pub(crate) fn read_local<T: Send + 'static>(
        &self,
        group: GroupId,
        consistency: Consistency,
        read: impl FnOnce(&MapView) -> T + Send + 'static,
    ) -> Pending<T> {
        let wants = ReadWants::LocalIndex;
        let finish = |answer: Answer| answer.and(Err(Error::Incompatible));
        self.read_here(group, consistency, wants, read, finish)
    }

    /// The same; if that replica cannot serve, the leader answers `query`, and `finish` reads its answer.
    fn read_local_or<T: Send + 'static>(
        &self,
        group: GroupId,
        consistency: Consistency,
        query: Bytes,
        read: impl FnOnce(&MapView) -> T + Send + 'static,
        finish: impl FnOnce(Answer) -> Result<T, Error> + Send + 'static,
    ) -> Pending<T> {
        self.read_here(group, consistency, ReadWants::LocalOr(query), read, finish)
    }

    fn read_here<T: Send + 'static>(
        &self,
        group: GroupId,
        consistency: Consistency,
        wants: ReadWants,
        read: impl FnOnce(&MapView) -> T + Send + 'static,
        finish: impl FnOnce(Answer) -> Result<T, Error> + Send + 'static,
    ) -> Pending<T> {
        if let Some(failed @ Error::Failed { .. }) = self.inner.client.closed() {
            return Pending::ready(Err(failed.clone()));
        }
        if let Some(view) = self.view_now(group, consistency) {
            return Pending::ready(Ok(read(&view)));
        }
        let Some(local) = &self.inner.local else {
            return Pending::ready(Err(Error::Closed));
        };
        let published = Arc::clone(&local[group.0 as usize]);
        let is_alone = matches!(wants, ReadWants::LocalIndex);
        if published.is_out() || is_alone && !published.has_state() {
            return Pending::ready(Err(Error::Quarantined { group }));
        }
        let (pending, completer) =
            Pending::over(self.inner.client.wakers(), move |answer| match answer {
                Ok(here) if here == READ_HERE => {
                    let view = published.load().ok_or(Error::Quarantined { group })?;
                    Ok(read(&view))
                }
                answer => finish(answer),
            });
        self.inner.client.read(group, wants, completer);
        pending
    }

    fn count_in(&self, group: GroupId) -> Pending<u64> {
        let consistency = Consistency::Linearizable;
        let query = Query::count();
        if self.inner.local.is_some() {
            let read = |view: &MapView| view.len() as u64;
            return self.read_local_or(group, consistency, query, read, finish_count);
        }
        let (pending, completer) = Pending::over(self.inner.client.wakers(), finish_count);
        let wants = ReadWants::Answer(consistency, query);
        self.inner.client.read(group, wants, completer);
        pending
    }

    fn scan_all(&self, scan: &Scan, limit: usize) -> Result<Vec<(Bytes, Bytes)>, Error> {
        for bound in [&scan.start, &scan.end] {
            if let Bound::Included(key) | Bound::Excluded(key) = bound {
                check_key(key)?;
            }
        }
        if limit == 0 {
            return Ok(Vec::new());
        }
        let groups: Vec<GroupId> = self.inner.client.partitioner().groups().collect();
        let mut entries = Vec::new();
        if self.inner.local.is_some() {
            let parts: Vec<(GroupId, Pending<Page>)> = groups
                .into_iter()
                .map(|group| (group, self.scan_local(group, scan.clone(), limit)))
                .collect();
            for (group, part) in parts {
                self.take_pages(group, scan.clone(), limit, part.wait()?, &mut entries)?;
            }
        } else {
            for group in groups {
                let first = self.page(group, scan, limit).wait()?;
                self.take_pages(group, scan.clone(), limit, first, &mut entries)?;
            }
        }
        if self.groups() > 1 {
            entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        }
        entries.truncate(limit);
        Ok(entries)
    }

    /// One group's share from the replica here, all of it in one page; the leader's first page if that replica cannot serve.
    fn scan_local(&self, group: GroupId, scan: Scan, limit: usize) -> Pending<Page> {
        let query = page_query(&scan, limit);
        let read = move |view: &MapView| (scan_view(view, &scan, limit), false);
        self.read_local_or(
            group,
            Consistency::Linearizable,
            query,
            read,
            finish_entries,
        )
    }

    /// Asks the leader for a page of one group's share.
    fn page(&self, group: GroupId, scan: &Scan, limit: usize) -> Pending<Page> {
        let (pending, completer) = Pending::over(self.inner.client.wakers(), finish_entries);
        let wants = ReadWants::Answer(Consistency::Linearizable, page_query(scan, limit));
        self.inner.client.read(group, wants, completer);
        pending
    }

    /// Takes the first page of one group's share, and asks for the others.
    fn take_pages(
        &self,
        group: GroupId,
        mut scan: Scan,
        limit: usize,
        first: Page,
        entries: &mut Vec<(Bytes, Bytes)>,
    ) -> Result<(), Error> {
        let mut left = limit;
        let (mut page, mut has_more) = first;
        loop {
            left -= page.len().min(left);
            let last = page.last().map(|(key, _)| key.clone());
            entries.extend(page);
            let Some(last) = last.filter(|_| has_more && left > 0) else {
                return Ok(());
            };
            scan.start = Bound::Excluded(last);
            (page, has_more) = self.page(group, &scan, left).wait()?;
        }
    }
}

/// Refuses a key that no node would take, before one is asked.
fn check_key(key: &[u8]) -> Result<(), Error> {
    if key.len() <= KEY_BYTES_MAX {
        return Ok(());
    }
    Err(Error::TooLarge(TooLarge {
        what: "key bytes",
        len: key.len(),
        limit: KEY_BYTES_MAX,
    }))
}

/// Entries, and whether there are more behind them.
type Page = (Vec<(Bytes, Bytes)>, bool);

fn page_query(scan: &Scan, limit: usize) -> Bytes {
    let mut scan = scan.clone();
    scan.limit = u32::try_from(limit).unwrap_or(u32::MAX);
    Query::scan(&scan)
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.process.is_another() {
            // Nothing of its runs here, and what it has is the parent's.
            std::mem::forget((Arc::clone(&self.client), Arc::clone(&self.timer)));
            return;
        }
        if self.local.is_some() {
            // Its node is stopped by the `Db`.
            self.client.close();
            return;
        }
        let client = Arc::clone(&self.client);
        // Dropped on a thread of the link, this would wait for that very thread.
        threads::apart(move || client.close());
    }
}

impl std::fmt::Debug for Clerk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clerk")
            .field("groups", &self.groups())
            .finish_non_exhaustive()
    }
}

/// Steps that take effect together or not at all.
#[derive(Debug, Default)]
pub struct WriteBatch {
    batch: Batch,
    hashes: Vec<u32>,
}

impl WriteBatch {
    /// No steps yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the batch take effect only if the key has this value before it; `None`: only if it is absent.
    pub fn expect(self, key: impl AsRef<[u8]>, value: Option<impl AsRef<[u8]>>) -> Self {
        let key = key.as_ref();
        self.step(key, |batch| {
            batch.expect(key, value.as_ref().map(AsRef::as_ref))
        })
    }

    /// Sets a key's value.
    pub fn put(self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        let key = key.as_ref();
        self.step(key, |batch| batch.put(key, value.as_ref()))
    }

    /// Adds to the end of a key's value.
    pub fn append(self, key: impl AsRef<[u8]>, suffix: impl AsRef<[u8]>) -> Self {
        let key = key.as_ref();
        self.step(key, |batch| batch.append(key, suffix.as_ref()))
    }

    /// Removes a key.
    pub fn delete(self, key: impl AsRef<[u8]>) -> Self {
        let key = key.as_ref();
        self.step(key, |batch| batch.delete(key))
    }

    fn step(mut self, key: &[u8], add: impl FnOnce(Batch) -> Batch) -> Self {
        self.hashes.push(hash(key));
        Self {
            batch: add(self.batch),
            hashes: self.hashes,
        }
    }
}

fn scan_view(view: &MapView, scan: &Scan, limit: usize) -> Vec<(Bytes, Bytes)> {
    let range = view.range((scan.start.clone(), scan.end.clone()));
    range
        .take(limit)
        .map(|(key, value)| (Bytes::copy_from_slice(key), value))
        .collect()
}
