//! `get --watch`: what is printed as resources change.

use std::cell::RefCell;
use std::rc::Rc;

use super::*;

/// An output that others may look at while it is written.
#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn text(&self) -> String {
        String::from_utf8(self.0.borrow().clone()).unwrap()
    }

    /// Waits until it ends with this.
    async fn ends_with(&self, text: &str) {
        while !self.text().ends_with(text) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Watches while `changes` does something, which gets to see the output.
fn watch(lab: &Lab, words: &str, changes: impl AsyncFnOnce(&Shared)) -> String {
    let out = Shared::default();
    let (mut written, mut err) = (out.clone(), Vec::new());
    let streams = Streams {
        stdin: &mut std::io::empty(),
        stdout: &mut written,
        stderr: &mut err,
        terminal: Terminal::default(),
        failed: false,
    };
    let args = std::iter::once("margayctl")
        .chain(words.split_whitespace())
        .map(OsString::from);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let done = async { tokio::time::timeout(Duration::from_secs(30), changes(&out)).await };
    runtime.block_on(async {
        tokio::select! {
            code = run(args, lab.surroundings(), streams) => panic!("ended with {code}"),
            done = done => done.unwrap_or_else(|_| panic!("only saw {}", out.text())),
        }
    });
    out.text()
}

async fn ctl(lab: &Lab, words: &str, stdin: &str) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let streams = Streams {
        stdin: &mut stdin.as_bytes(),
        stdout: &mut out,
        stderr: &mut err,
        terminal: Terminal::default(),
        failed: false,
    };
    let args = std::iter::once("margayctl")
        .chain(words.split_whitespace())
        .map(OsString::from);
    assert_eq!(run(args, lab.surroundings(), streams).await, 0, "{words}");
}

#[test]
fn a_table_goes_on_with_what_happens() {
    let lab = Lab::new();
    lab.apply(POOL);
    let seen = watch(&lab, "get pools -w -l rack!=z", async |out| {
        out.ends_with("all()\n").await;
        let other = POOL
            .replace("main", "a-longer-name")
            .replace("10.65", "10.66");
        ctl(&lab, "apply -f -", &other).await;
        out.ends_with("10.66.0.0/16   all()\n").await;
        ctl(&lab, "label pool main rack=a", "").await;
        out.ends_with("main            10.65.0.0/16   all()\n")
            .await;
        // No longer selected.
        ctl(&lab, "label pool main rack=z --overwrite", "").await;
        ctl(&lab, "delete pool a-longer-name", "").await;
        out.ends_with("10.66.0.0/16   all()\n").await;
        while out.text().lines().count() < 6 {
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(
        seen,
        "EVENT   NAME   CIDR           SELECTOR\n\
         ADDED   main   10.65.0.0/16   all()\n\
         ADDED   a-longer-name   10.66.0.0/16   all()\n\
         MODIFIED   main            10.65.0.0/16   all()\n\
         DELETED    main            10.65.0.0/16   all()\n\
         DELETED    a-longer-name   10.66.0.0/16   all()\n"
    );
}

#[test]
fn json_is_an_object_a_line_and_says_what_happened_if_asked() {
    let lab = Lab::new();
    let seen = watch(
        &lab,
        "get pools --watch-only --output-watch-events -o json",
        async |out| {
            // The watch begins with the list: what is there before is not shown.
            tokio::task::yield_now().await;
            ctl(&lab, "apply -f -", POOL).await;
            out.ends_with("}\n").await;
            ctl(&lab, "delete pool main", "").await;
            while out.text().lines().count() < 2 {
                tokio::task::yield_now().await;
            }
        },
    );
    let events: Vec<serde_json::Value> = seen
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let types: Vec<_> = events
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    assert_eq!(types, ["ADDED", "DELETED"]);
    assert_eq!(events[0]["object"]["metadata"]["name"], "main");
}

#[test]
fn a_watch_that_is_lost_begins_again_and_misses_nothing() {
    let lab = Lab::new();
    lab.apply(POOL);
    let seen = watch(
        &lab,
        "get pools -w -o name --output-watch-events",
        async |out| {
            out.ends_with("ippool/main\n").await;
            lab.store.cut_watches();
            ctl(
                &lab,
                "apply -f -",
                &POOL.replace("main", "b").replace("10.65", "10.66"),
            )
            .await;
            out.ends_with("ippool/b\n").await;
        },
    );
    assert_eq!(seen, "ippool/main\nippool/b\n");
}
