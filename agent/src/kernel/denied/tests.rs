//! The thread and what is asked of it, over a table that fails as it is told to.

use std::sync::{Arc, Mutex};

use margay_dataplane::netlink::NetlinkError;

use super::thread::Look;
use super::*;

const PATIENCE: Duration = Duration::from_secs(60);
const BIT: u32 = 1 << 31;

/// What goes wrong with the next jobs, in this order, and how often there was which.
#[derive(Default)]
struct Script {
    looks: Vec<Option<NetlinkError>>,
    marks: Vec<Option<NetlinkError>>,
    looked: Vec<Ends>,
    marked: usize,
    /// How long a look waits for others.
    waits: Duration,
    unclear: Option<NetlinkError>,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Script>>);

fn next(errors: &mut Vec<Option<NetlinkError>>) -> Result<(), NetlinkError> {
    match errors.is_empty() {
        true => Ok(()),
        false => errors.remove(0).map_or(Ok(()), Err),
    }
}

impl Table for Fake {
    fn look(&mut self, ends: &Ends, _ways: bool) -> Result<Look, NetlinkError> {
        let mut script = self.0.lock().unwrap();
        script.looked.push(ends.clone());
        std::thread::sleep(script.waits);
        next(&mut script.looks)?;
        Ok(Look {
            unclear: script.unclear.take(),
            ..Look::default()
        })
    }

    fn mark(&mut self, _: &[(Connection, bool)], _bit: u32) -> Result<(), NetlinkError> {
        let mut script = self.0.lock().unwrap();
        script.marked += 1;
        next(&mut script.marks)
    }
}

/// Changes and the thread, without the kernel thread that judges: of each look something is to be marked if `marks`.
struct Scene {
    fake: Fake,
    denied: Denied,
    found: mpsc::UnboundedReceiver<Found>,
    marks: bool,
}

impl Scene {
    fn new(script: Script, marks: bool) -> Self {
        let fake = Fake(Arc::new(Mutex::new(script)));
        let (mut denied, found) = Denied::over(fake.clone()).unwrap();
        denied.bit = Some(BIT);
        Self {
            fake,
            denied,
            found,
            marks,
        }
    }

    /// A round as the kernel thread makes it, of whatever is due, however long that takes to be due. Whether it went well.
    fn round(&mut self) -> bool {
        assert!(self.denied.due().is_some(), "nothing is due");
        let changes = self.denied.take_changes();
        assert!(changes.all || changes.hosts, "{changes:?}");
        self.denied.look(everybody(), true, changes);
        loop {
            let begun = Instant::now();
            let found = loop {
                match self.found.try_recv() {
                    Ok(found) => break found,
                    Err(_nothing) => assert!(begun.elapsed() < PATIENCE, "the thread is silent"),
                }
                std::thread::sleep(Duration::from_millis(1));
            };
            match found {
                Found::Some(..) => unreachable!("there are no connections"),
                Found::Looked(looked, worked) => {
                    if self.marks && looked.is_ok() {
                        self.denied.mark(Vec::new(), BIT);
                    }
                    self.denied.looked(looked, worked);
                }
                Found::Marked(marked) => self.denied.marked(marked),
            }
            assert!(self.denied.due().is_none(), "two rounds at once");
            if let Some((_, is_whole)) = self.denied.end_round() {
                return is_whole;
            }
        }
    }

    /// How long from now until the next look.
    fn wait(&self) -> Duration {
        self.denied.due().unwrap() - Instant::now()
    }
}

fn lost() -> Option<NetlinkError> {
    Some(NetlinkError::Overrun)
}

#[test]
fn what_could_not_be_read_is_looked_at_again_until_it_is() {
    let script = Script {
        looks: vec![lost(), Some(NetlinkError::DumpInterrupted(10)), None],
        ..Script::default()
    };
    let mut scene = Scene::new(script, false);
    scene.denied.hosts_changed();
    assert!(!scene.round());
    let told = scene.denied.problem().unwrap().to_owned();
    assert!(told.contains("overrun"), "{told}");
    assert!(!scene.round());
    assert!(scene.denied.problem().unwrap().contains("10 dumps"));
    assert!(scene.round());
    assert_eq!(scene.denied.problem(), None);
    assert_eq!(scene.denied.due(), None, "all is as it should be");
    assert_eq!(scene.fake.0.lock().unwrap().looked, vec![everybody(); 3]);
}

#[test]
fn what_could_not_be_marked_is_looked_at_again_until_it_is() {
    let script = Script {
        marks: vec![lost(), lost(), None],
        ..Script::default()
    };
    let mut scene = Scene::new(script, true);
    scene.denied.all_changed();
    assert_eq!(
        [scene.round(), scene.round(), scene.round()],
        [false, false, true]
    );
    assert_eq!(scene.denied.due(), None);
    assert_eq!(scene.fake.0.lock().unwrap().marked, 3);
}

#[test]
fn connections_whose_way_is_unclear_are_looked_at_again() {
    let script = Script {
        unclear: lost(),
        ..Script::default()
    };
    let mut scene = Scene::new(script, false);
    scene.denied.hosts_changed();
    assert_eq!([scene.round(), scene.round()], [false, true]);
}

#[test]
fn the_kernel_that_refuses_always_is_asked_less_and_less_often() {
    let script = Script {
        looks: (0..12).map(|_| lost()).collect(),
        ..Script::default()
    };
    let mut scene = Scene::new(script, false);
    scene.denied.all_changed();
    let mut waits = Vec::new();
    for _ in 0..12 {
        assert!(!scene.round());
        waits.push(scene.wait());
    }
    assert!(waits[0] <= RETRY && waits[3] > RETRY, "{waits:?}");
    assert!(
        waits[11] > LONGEST_RETRY / 2 && waits[11] <= LONGEST_RETRY,
        "{waits:?}"
    );
    assert!(scene.round());
    // What happens next is looked at as soon as ever.
    scene.denied.all_changed();
    assert!(scene.wait() <= LONGEST, "{:?}", scene.wait());
}

/// Others hold the locks of the kernel, or its processors, for as long as they like.
#[test]
fn a_look_that_waits_for_others_does_not_put_the_next_one_off() {
    let script = Script {
        waits: Duration::from_secs(1),
        ..Script::default()
    };
    let mut scene = Scene::new(script, false);
    scene.denied.all_changed();
    assert!(scene.round());
    scene.denied.all_changed();
    assert!(scene.wait() < Duration::from_secs(1), "{:?}", scene.wait());
}

#[test]
fn what_changes_during_a_round_is_the_next_ones() {
    let mut scene = Scene::new(Script::default(), true);
    scene.denied.all_changed();
    let changes = scene.denied.take_changes();
    scene.denied.look(everybody(), true, changes);
    scene.denied.hosts_changed();
    assert_eq!(scene.denied.due(), None, "one is under way");
    scene.denied.looked(Ok(()), Duration::ZERO);
    assert!(scene.denied.end_round().is_some());
    assert!(scene.denied.due().is_some() && scene.denied.changes.hosts);
}
