//! Each request to the kernel fails once in each way: it converges, and no set that rules use is missing or lacks a
//! member that it had before and is to have after.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use super::*;
use crate::ipset::KernelSet as FoundSet;

/// What goes wrong with one request.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// It is refused with this number, and not done.
    Refused(i32),
    /// It is done, and the answer lost.
    LostDone,
    /// It is not done, and the answer lost.
    LostUndone,
}

const FAULTS: [Fault; 6] = [
    Fault::Refused(libc::EBUSY),
    Fault::Refused(libc::ENOBUFS),
    Fault::Refused(libc::ENOMEM),
    Fault::Refused(libc::EEXIST),
    Fault::LostDone,
    Fault::LostUndone,
];

type Content = BTreeMap<String, (SetType, Family, BTreeSet<Entry>)>;

/// The kernel's sets.
#[derive(Debug, Default)]
struct World {
    sets: Content,
    requests: usize,
    /// The request that goes wrong, by its number.
    fault: Option<(usize, Fault)>,
    /// Members that the set of this name has at any time.
    always: Option<(String, BTreeSet<Entry>)>,
}

#[derive(Clone, Debug, Default)]
struct Fake(Arc<Mutex<World>>);

fn error(errno: i32) -> IpsetError {
    IpsetError::Kernel {
        set: "s".to_owned(),
        op: "fake",
        errno,
    }
}

fn lost() -> IpsetError {
    IpsetError::Timeout {
        set: "s".to_owned(),
        op: "fake",
        seconds: 10,
    }
}

impl Fake {
    /// Does it, or not, as planned.
    fn request<T>(
        &self,
        work: impl FnOnce(&mut Content) -> Result<T, IpsetError>,
    ) -> Result<T, IpsetError> {
        let mut world = self.0.lock().unwrap();
        world.requests += 1;
        let now = world.requests;
        let fault = world.fault.filter(|(at, _)| *at == now);
        let result = match fault {
            Some((_, Fault::Refused(errno))) => Err(error(errno)),
            Some((_, Fault::LostUndone)) => Err(lost()),
            Some((_, Fault::LostDone)) => work(&mut world.sets).and(Err(lost())),
            None => work(&mut world.sets),
        };
        if let Some((name, members)) = &world.always {
            let has = world
                .sets
                .get(name)
                .is_some_and(|(.., has)| has.is_superset(members));
            assert!(has, "{name} at request {now}: {:?}", world.sets);
        }
        result
    }
}

fn of<'a>(sets: &'a mut Content, name: &str) -> Result<&'a mut BTreeSet<Entry>, IpsetError> {
    let set = sets.get_mut(name).map(|(.., members)| members);
    set.ok_or_else(|| error(libc::ENOENT))
}

impl Edge for Fake {
    fn create(&mut self, name: &str, set_type: SetType, family: Family) -> Result<(), IpsetError> {
        self.request(|sets| {
            if sets.contains_key(name) {
                return Err(error(libc::EEXIST));
            }
            sets.insert(name.to_owned(), (set_type, family, BTreeSet::new()));
            Ok(())
        })
    }

    fn destroy(&mut self, name: &str) -> Result<(), IpsetError> {
        self.request(|sets| {
            sets.remove(name);
            Ok(())
        })
    }

    fn swap(&mut self, name: &str, other: &str) -> Result<(), IpsetError> {
        self.request(|sets| {
            let one = std::mem::take(of(sets, name)?);
            let two = std::mem::replace(of(sets, other)?, one);
            *of(sets, name)? = two;
            Ok(())
        })
    }

    fn add(&mut self, name: &str, entries: &[Entry]) -> Result<(), IpsetError> {
        self.request(|sets| {
            of(sets, name)?.extend(entries);
            Ok(())
        })
    }

    fn del(&mut self, name: &str, entries: &[Entry]) -> Result<(), IpsetError> {
        self.request(|sets| {
            of(sets, name)?.retain(|entry| !entries.contains(entry));
            Ok(())
        })
    }

    fn names(&mut self) -> Result<Vec<String>, IpsetError> {
        self.request(|sets| Ok(sets.keys().cloned().collect()))
    }

    fn list(&mut self, name: &str) -> Result<Option<FoundSet>, IpsetError> {
        self.request(|sets| {
            Ok(sets.get(name).map(|(set_type, family, members)| FoundSet {
                set_type: Some(*set_type),
                family: Some(*family),
                entries: members.iter().copied().collect(),
            }))
        })
    }
}

/// As a pass of the backend does.
fn pass(sets: &mut Sets, now: Instant) -> SetsReport {
    let mut report = SetsReport::default();
    if sets.refresh(now, &mut report) {
        sets.add(true, now, &mut report);
        sets.delete(true, |_, _| true, now, &mut report);
        sets.destroy(now, &mut report);
    }
    sets.report(&mut report);
    report
}

/// Passes until nothing is left to do. The clock is the test's own.
fn settle(sets: &mut Sets, now: &mut Instant) {
    for _ in 0..20 {
        let report = pass(sets, *now);
        match report.retry_at {
            Some(at) => *now = at,
            None => {
                assert!(report.failures.is_empty(), "{:?}", report.failures);
                return;
            }
        }
    }
    panic!("does not settle");
}

fn entry(n: u32) -> Entry {
    Entry::Net(std::net::IpAddr::from(Ipv4Addr::from(0x0a00_0000 + n)).into())
}

const CHANGED: &str = "mgy4s:changed";
const REWRITTEN: &str = "mgy4s:rewritten";
const NEW: &str = "mgy4s:new";
const OLD: &str = "mgy4s:old";

/// Sets of every kind of change to come: members, a rewrite, one that is new, one that goes.
fn before(fake: &Fake, now: &mut Instant) -> Sets {
    let mut sets = Sets::new(Box::new(fake.clone()));
    for (name, members) in [(CHANGED, 0..10), (REWRITTEN, 0..2000), (OLD, 0..10)] {
        sets.want(name, SetType::Net, Family::V4);
        sets.replace(name, members.map(entry));
    }
    settle(&mut sets, now);
    sets
}

fn change(sets: &mut Sets) {
    sets.replace(CHANGED, (5..15).map(entry));
    sets.replace(REWRITTEN, (1500..3500).map(entry));
    sets.want(NEW, SetType::Net, Family::V4);
    sets.replace(NEW, (0..10).map(entry));
    sets.unwant(OLD);
}

#[test]
fn each_request_may_fail_in_each_way_once() {
    let requests = {
        let (fake, mut now) = (Fake::default(), Instant::now());
        let mut sets = before(&fake, &mut now);
        let before = fake.0.lock().unwrap().requests;
        change(&mut sets);
        settle(&mut sets, &mut now);
        fake.0.lock().unwrap().requests - before
    };
    assert!(requests >= 8, "{requests}");
    let wanted = BTreeMap::from([
        (CHANGED.to_owned(), (5..15).map(entry).collect()),
        (REWRITTEN.to_owned(), (1500..3500).map(entry).collect()),
        (NEW.to_owned(), (0..10).map(entry).collect::<BTreeSet<_>>()),
    ]);
    let watched = [(CHANGED, 5..10), (REWRITTEN, 1500..2000)];
    for (fault, (name, members)) in FAULTS
        .into_iter()
        .flat_map(|f| watched.clone().map(|w| (f, w)))
    {
        for at in 1..=requests {
            let (fake, mut now) = (Fake::default(), Instant::now());
            let mut sets = before(&fake, &mut now);
            change(&mut sets);
            {
                let mut world = fake.0.lock().unwrap();
                world.fault = Some((world.requests + at, fault));
                world.always = Some((name.to_owned(), members.clone().map(entry).collect()));
            }
            settle(&mut sets, &mut now);
            let world = fake.0.lock().unwrap();
            let found = world.sets.iter();
            let found = found.map(|(name, (.., members))| (name.clone(), members.clone()));
            let found: BTreeMap<_, _> = found.collect();
            assert!(found == wanted, "{fault:?} at {at}: {:?}", found.keys());
        }
    }
}

#[test]
fn a_kernel_that_cannot_be_read_is_read_again() {
    for fault in FAULTS {
        for at in 1..=5 {
            let (fake, mut now) = (Fake::default(), Instant::now());
            let mut sets = before(&fake, &mut now);
            {
                let mut world = fake.0.lock().unwrap();
                // Broken by hand.
                world.sets.remove(OLD);
                of(&mut world.sets, CHANGED).unwrap().insert(entry(99));
                world.fault = Some((world.requests + at, fault));
            }
            sets.invalidate();
            settle(&mut sets, &mut now);
            let world = fake.0.lock().unwrap();
            let of = |name: &str| world.sets.get(name).map(|(.., members)| members.clone());
            for name in [CHANGED, OLD] {
                assert_eq!(
                    of(name),
                    Some((0..10).map(entry).collect()),
                    "{fault:?} at {at}"
                );
            }
        }
    }
}
