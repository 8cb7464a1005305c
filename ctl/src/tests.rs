//! Whole command lines against a store in memory: what a user types, sees, and gets as exit code.

mod bgp;
mod change;
mod config;
mod datastore;
mod diff;
mod get;
mod hosts;
mod install_cni;
mod ipam;
mod kubernetes;
mod pods;
mod policy;
mod reference;
mod staged;
mod validate;
mod watch;

use std::path::Path;

use margay_datastore::{Fault, MemoryStore};
use margay_model::store::{Store, Txn};

use super::*;

/// A user with a datastore.
struct Lab {
    store: MemoryStore,
}

/// What a command printed, and its exit code.
#[derive(Debug, PartialEq, Eq)]
struct Ran {
    code: u8,
    out: String,
    err: String,
}

impl Lab {
    fn new() -> Self {
        Self {
            store: MemoryStore::new(),
        }
    }

    /// Runs a command line; `stdin` is what it reads from `-`.
    fn run_with(&self, words: &str, stdin: &str) -> Ran {
        self.run_args(words.split_whitespace(), stdin)
    }

    fn surroundings(&self) -> Surroundings {
        Surroundings {
            lookup: |name| (name == "MARGAY_CONFIG").then(|| "/dev/null".to_owned()),
            store: Some(AnyStore::Memory(self.store.clone())),
            now: "2026-11-21T05:02:52.5Z".parse().unwrap(),
            new_uid: || "6b6e5e6b-98df-4f9a-9dc9-a8cf7806cb8c".to_owned(),
            look_again: Duration::ZERO,
            host: Host::at("/"),
        }
    }

    fn run_args<'a>(&self, words: impl Iterator<Item = &'a str>, stdin: &str) -> Ran {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let streams = Streams {
            stdin: &mut stdin.as_bytes(),
            stdout: &mut out,
            stderr: &mut err,
            terminal: Terminal::default(),
            failed: false,
        };
        let args = std::iter::once("margayctl")
            .chain(words)
            .map(OsString::from);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let code = runtime.block_on(run(args, self.surroundings(), streams));
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran {
            code,
            out: text(out),
            err: text(err),
        }
    }

    fn run(&self, words: &str) -> Ran {
        self.run_with(words, "")
    }

    /// Applies a text that must be accepted.
    fn apply(&self, text: &str) {
        let ran = self.run_with("apply -f -", text);
        assert_eq!(ran.code, 0, "{ran:?}");
    }

    /// What is stored under a key below the resources.
    fn stored(&self, key: &str) -> Option<String> {
        let key = format!("/calico/resources/v3/projectcalico.org/{key}");
        self.at(&key)
    }

    fn at(&self, key: &str) -> Option<String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let kv = runtime.block_on(self.store.get(key)).unwrap()?;
        Some(String::from_utf8(kv.value).unwrap())
    }

    /// The keys below a prefix.
    fn below(&self, prefix: &str) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let listing = runtime.block_on(self.store.list(prefix)).unwrap();
        listing.kvs.into_iter().map(|kv| kv.key).collect()
    }

    fn put(&self, key: &str, value: &str) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime
            .block_on(self.store.txn(Txn::default().put(key, value)))
            .unwrap();
    }
}

fn ok(out: &str) -> Ran {
    Ran {
        code: 0,
        out: out.to_owned(),
        err: String::new(),
    }
}

fn failed(out: &str, err: &str) -> Ran {
    Ran {
        code: 1,
        out: out.to_owned(),
        err: err.to_owned(),
    }
}

const POOL: &str = "
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: main}
spec: {cidr: 10.65.0.0/16, natOutgoing: true}
";

const POLICY: &str = "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: allow-dns}
spec:
  order: 10
  selector: app == 'web'
  egress:
  - {action: Allow, protocol: UDP, destination: {ports: [53]}}
";

#[test]
fn create_stores_what_the_established_client_would() {
    let lab = Lab::new();
    assert_eq!(
        lab.run_with("create -f -", POOL),
        ok("IPPool/main: created\n")
    );
    assert_eq!(
        lab.stored("ippools/main").unwrap(),
        r#"{"kind":"IPPool","apiVersion":"projectcalico.org/v3","metadata":{"name":"main","uid":"6b6e5e6b-98df-4f9a-9dc9-a8cf7806cb8c","creationTimestamp":"2026-11-21T05:02:52Z"},"spec":{"cidr":"10.65.0.0/16","vxlanMode":"Never","ipipMode":"Never","natOutgoing":true,"blockSize":26,"nodeSelector":"all()","allowedUses":["Workload","Tunnel"],"assignmentMode":"Automatic"}}"#
    );
    assert_eq!(
        lab.run_with("create -f -", POOL),
        failed(
            "",
            "standard input: document 1 (line 2): IPPool/main: exists already\n"
        )
    );
    assert_eq!(
        lab.run_with("create --skip-exists -f -", POOL),
        ok("IPPool/main: exists already, skipped\n")
    );
}

#[test]
fn apply_creates_replaces_and_leaves_alone() {
    let lab = Lab::new();
    assert_eq!(
        lab.run_with("apply -f -", POLICY),
        ok("NetworkPolicy/default/allow-dns: created\n")
    );
    assert_eq!(
        lab.run_with("apply -f -", POLICY),
        ok("NetworkPolicy/default/allow-dns: unchanged\n")
    );
    let changed = POLICY.replace("order: 10", "order: 20.5");
    assert_eq!(
        lab.run_with("apply -f -", &changed),
        ok("NetworkPolicy/default/allow-dns: replaced\n")
    );
    let stored = lab.stored("networkpolicies/default/allow-dns").unwrap();
    assert!(stored.contains(r#""order":20.5"#), "{stored}");
    assert!(stored.contains(r#""types":["Egress"]"#), "{stored}");
    assert!(
        stored.contains(r#""labels":{"projectcalico.org/tier":"default"}"#),
        "{stored}"
    );
}

#[test]
fn replace_wants_something_to_replace() {
    let lab = Lab::new();
    assert_eq!(
        lab.run_with("replace -f - -n prod", POLICY),
        failed(
            "",
            "standard input: document 1 (line 2): NetworkPolicy/prod/allow-dns: does not exist\n"
        )
    );
}

#[test]
fn what_others_report_and_identity_survive_a_change() {
    let lab = Lab::new();
    lab.put(
        "/calico/resources/v3/projectcalico.org/nodes/n1",
        r#"{"kind":"Node","apiVersion":"projectcalico.org/v3","metadata":{"name":"n1","uid":"u","creationTimestamp":"2020-01-01T00:00:00Z"},"spec":{},"status":{"wireguardPublicKey":"k"}}"#,
    );
    let node = "{apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: n1, labels: \
                {rack: a}}, spec: {}}";
    assert_eq!(lab.run_with("apply -f -", node), ok("Node/n1: replaced\n"));
    assert_eq!(
        lab.stored("nodes/n1").unwrap(),
        r#"{"kind":"Node","apiVersion":"projectcalico.org/v3","metadata":{"name":"n1","uid":"u","creationTimestamp":"2020-01-01T00:00:00Z","labels":{"rack":"a"}},"spec":{},"status":{"wireguardPublicKey":"k"}}"#
    );
}

#[test]
fn each_rejection_is_one_line_and_the_rest_is_done() {
    let lab = Lab::new();
    let text = format!(
        "{POOL}---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {{name: Bad}}
spec: {{cidr: 10.66.0.1/16, blocksize: 26, ipipMode: Sometimes}}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {{name: p}}
spec: {{selector: \"a ==\"}}
---
{POLICY}"
    );
    let ran = lab.run_with("apply -f -", &text);
    assert_eq!(ran.code, 1);
    assert_eq!(
        ran.out,
        "IPPool/main: created\nNetworkPolicy/default/allow-dns: created\n"
    );
    let at = |document, line| format!("standard input: document {document} (line {line}): ");
    let lines: Vec<_> = ran.err.lines().collect();
    assert_eq!(
        lines[..3],
        [
            format!(
                "{}IPPool/Bad: spec.blocksize (line 10): found an unknown field, did you mean \"blockSize\"?",
                at(2, 7)
            ),
            format!(
                "{}IPPool/Bad: spec.cidr (line 10): found \"10.66.0.1/16\", allowed: ADDRESS/LENGTH without host bits, such as 10.65.0.0/16, 10.65.0.1/32 or fd00::/64",
                at(2, 7)
            ),
            format!(
                "{}IPPool/Bad: spec.ipipMode (line 10): found \"Sometimes\", allowed: Never, Always, CrossSubnet",
                at(2, 7)
            ),
        ]
    );
    assert_eq!(lines.len(), 4, "{}", ran.err);
    let selector = format!(
        "{}GlobalNetworkPolicy/p: spec.selector (line 15): found \"a ==\", allowed: a selector (",
        at(3, 12)
    );
    assert!(lines[3].starts_with(&selector), "{}", lines[3]);
}

#[test]
fn a_stale_resource_version_is_told_as_such() {
    let lab = Lab::new();
    lab.apply(POLICY);
    let with = |version: &str| {
        POLICY.replace(
            "allow-dns",
            &format!("allow-dns, resourceVersion: '{version}'"),
        )
    };
    let ran = lab.run_with(
        "replace -f -",
        &with("999").replace("order: 10", "order: 1"),
    );
    assert_eq!(
        ran,
        failed(
            "",
            "standard input: document 1 (line 2): NetworkPolicy/default/allow-dns: changed by \
             somebody else: resourceVersion: found \"999\", the datastore has 1; get it again and \
             repeat the change\n"
        )
    );
    let ran = lab.run_with("replace -f -", &with("1").replace("order: 10", "order: 1"));
    assert_eq!(ran, ok("NetworkPolicy/default/allow-dns: replaced\n"));
    let ran = lab.run_with("create -f -", &with("1"));
    assert!(
        ran.err
            .contains("metadata.resourceVersion: found \"1\", allowed: nothing when")
    );
}

#[test]
fn pools_do_not_overlap_and_keep_their_range() {
    let lab = Lab::new();
    lab.apply(POOL);
    let ran = lab.run_with(
        "apply -f -",
        &POOL.replace("main", "other").replace("/16", "/20"),
    );
    assert_eq!(
        ran.err,
        "standard input: document 1 (line 2): IPPool/other: spec.cidr: found 10.65.0.0/20, \
         allowed: a range that does not overlap with IPPool main (10.65.0.0/16)\n"
    );
    let ran = lab.run_with(
        "apply -f -",
        &POOL.replace("10.65.0.0/16", "10.66.0.0/16, blockSize: 27"),
    );
    assert_eq!(ran.code, 1);
    let paths: Vec<_> = ran
        .err
        .lines()
        .map(|line| line.split(": ").nth(3).unwrap())
        .collect();
    assert_eq!(paths, ["spec.cidr", "spec.blockSize"]);
}

#[test]
fn policies_live_in_tiers_that_exist() {
    let lab = Lab::new();
    let policy = POLICY.replace("spec:", "spec:\n  tier: platform");
    let ran = lab.run_with("apply -f -", &policy);
    assert!(
        ran.err
            .ends_with("spec.tier: found \"platform\", allowed: default\n"),
        "{}",
        ran.err
    );
    let tier = "{apiVersion: projectcalico.org/v3, kind: Tier, metadata: {name: platform}, spec: \
                {order: 5}}";
    lab.apply(tier);
    lab.apply(&policy);
    let ran = lab.run("delete tier platform");
    assert_eq!(
        ran,
        failed(
            "",
            "Tier/platform: may not be deleted: NetworkPolicy/default/allow-dns is in this tier\n"
        )
    );
    assert_eq!(lab.run("delete np allow-dns").code, 0);
    assert_eq!(
        lab.run("delete tier platform"),
        ok("Tier/platform: deleted\n")
    );
}

#[test]
fn settings_of_address_management_are_written_for_its_readers_too() {
    let lab = Lab::new();
    lab.put(
        "/calico/ipam/v2/config",
        r#"{"auto_allocate_blocks":true,"newer":1}"#,
    );
    lab.apply(
        "{apiVersion: projectcalico.org/v3, kind: IPAMConfiguration, metadata: {name: default}, \
         spec: {strictAffinity: true, maxBlocksPerHost: 3}}",
    );
    assert_eq!(
        lab.at("/calico/ipam/v2/config").unwrap(),
        r#"{"strict_affinity":true,"auto_allocate_blocks":true,"maxBlocksPerHost":3,"newer":1}"#
    );
    assert_eq!(
        lab.run("ipam show --show-configuration"),
        ok("\
PROPERTY             VALUE
StrictAffinity       true
AutoAllocateBlocks   true
MaxBlocksPerHost     3
IPCooldownSeconds    30
")
    );
    assert_eq!(lab.run("delete ipamconfig default").code, 0);
    assert_eq!(lab.at("/calico/ipam/v2/config"), None);
}

#[test]
fn delete_by_name_and_by_file() {
    let lab = Lab::new();
    lab.apply(&format!("{POOL}---{POLICY}"));
    assert_eq!(
        lab.run("delete ippool main absent"),
        failed("IPPool/main: deleted\n", "IPPool/absent: does not exist\n")
    );
    assert_eq!(
        lab.run("delete --skip-not-exists IPPools/main"),
        ok("IPPool/main: does not exist, skipped\n")
    );
    assert_eq!(
        lab.run_with("delete -s -f -", &format!("{POOL}---{POLICY}")),
        ok("NetworkPolicy/default/allow-dns: deleted\nIPPool/main: does not exist, skipped\n")
    );
    assert_eq!(lab.stored("networkpolicies/default/allow-dns"), None);
}

#[test]
fn what_is_damaged_is_named_and_can_be_repaired() {
    let lab = Lab::new();
    lab.apply(POOL);
    lab.put(
        "/calico/resources/v3/projectcalico.org/ippools/broken",
        r#"{"spec":{"cidr":"x"}}"#,
    );
    assert_eq!(
        lab.run("get pools -o name"),
        failed(
            "ippool/main\n",
            "IPPool/broken: spec.cidr: found \"x\", allowed: ADDRESS/LENGTH without host bits, \
             such as 10.65.0.0/16, 10.65.0.1/32 or fd00::/64\n"
        )
    );
    let repaired = POOL.replace("main", "broken").replace("10.65", "10.66");
    assert_eq!(
        lab.run_with("apply -f -", &repaired),
        ok("IPPool/broken: replaced\n")
    );
}

#[test]
fn an_unreachable_datastore_ends_the_command_with_3() {
    let lab = Lab::new();
    lab.store.set_unreachable(true);
    for words in [
        "get pools",
        "get pool main",
        "delete pool main",
        "policy explain --from a --to b",
        "policy show a",
        "policy matrix",
        "selector list all()",
        "ipam show",
    ] {
        let ran = lab.run(words);
        assert_eq!((ran.code, ran.out.as_str()), (3, ""), "{words}");
        assert_eq!(ran.err.lines().count(), 1, "{ran:?}");
        assert!(ran.err.contains("datastore unavailable: "), "{ran:?}");
    }
    let ran = lab.run_with("apply -f -", &format!("{POOL}---{POLICY}"));
    assert_eq!((ran.code, ran.err.lines().count()), (3, 1), "{ran:?}");
}

/// What `write` answers when somebody changes the pool between its reading and its writing.
fn write_while_somebody_writes(version: Option<&str>) -> Result<client::Written, String> {
    use margay_model::manifest::decode_manifest;
    use std::time::Duration;

    let lab = Lab::new();
    lab.apply(POOL);
    let text = POOL.replace("true", "false");
    let mut pool = decode_manifest(&text, &|_| Ok(()))
        .remove(0)
        .result
        .unwrap();
    pool.metadata_mut().resource_version = version.map(str::to_owned);
    let client = Client {
        store: AnyStore::Memory(lab.store.clone()),
        keys: Keys::default(),
        now: Timestamp::UNIX_EPOCH,
        new_uid: String::new,
    };
    // The read is answered at once, the transaction waits.
    lab.store.inject(1, Fault::Delay(Duration::ZERO));
    lab.store.inject(1, Fault::Delay(Duration::from_millis(20)));
    let key = "/calico/resources/v3/projectcalico.org/ippools/main";
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Time passes when all wait, so a slow machine changes no order.
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let somebody = async {
            while lab.store.revision() == 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
                let stored = lab.store.get(key).await.unwrap().unwrap();
                lab.store
                    .txn(Txn::default().put(key, stored.value))
                    .await
                    .unwrap();
            }
        };
        let (written, ()) = tokio::join!(client.write(Mode::Apply, pool), somebody);
        written.map_err(|failure| failure.to_string())
    })
}

#[test]
fn a_write_without_version_starts_over_when_somebody_was_faster() {
    assert_eq!(
        write_while_somebody_writes(None),
        Ok(client::Written::Replaced)
    );
}

#[test]
fn a_write_with_a_version_gives_way_when_somebody_was_faster() {
    let refused = write_while_somebody_writes(Some("1")).unwrap_err();
    assert_eq!(
        refused,
        "changed by somebody else: resourceVersion: found \"1\", the datastore has 2; get it again \
         and repeat the change"
    );
}

#[test]
fn wrong_usage_ends_with_2_and_one_line() {
    let lab = Lab::new();
    let ran = lab.run("get pols x/y");
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (2, "a name is empty or has a slash\n")
    );
    let ran = lab.run("get unheardof");
    assert_eq!(ran.code, 2);
    assert!(
        ran.err
            .starts_with("kind: found \"unheardof\", allowed: bgpconfigurations, ")
    );
    assert_eq!(lab.run("delete pool").code, 2);
    assert_eq!(lab.run("apply").code, 2);
    assert_eq!(lab.run("apply -f /does/not/exist").code, 2);
    let ran = lab.run_with("apply -f -", "# nothing\n");
    assert_eq!((ran.code, ran.err.as_str()), (2, "-: no resources found\n"));
}

#[test]
fn folders_are_read_in_order_and_as_deep_as_asked() {
    let lab = Lab::new();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    write("b.yml", POLICY);
    write(
        "a.json",
        r#"{"apiVersion":"projectcalico.org/v3","kind":"Node","metadata":{"name":"n1"}}"#,
    );
    write("notes.txt", "not a manifest");
    write("sub/c.yaml", POOL);
    let run = |flag: &str| {
        let path = folder.path().to_str().unwrap();
        lab.run_args(
            ["validate", flag, "-f", path]
                .into_iter()
                .filter(|w| !w.is_empty()),
            "",
        )
    };
    assert_eq!(
        run(""),
        ok("Node/n1: valid\nNetworkPolicy/default/allow-dns: valid\n")
    );
    assert_eq!(
        run("-R"),
        ok("Node/n1: valid\nNetworkPolicy/default/allow-dns: valid\nIPPool/main: valid\n")
    );
    write("sub/c.yaml", "kind: [\n");
    let ran = run("-R");
    let place = folder.path().join("sub/c.yaml: document 1 (line 1): line ");
    assert_eq!(ran.code, 1);
    assert!(
        Path::new(&ran.err)
            .to_str()
            .unwrap()
            .starts_with(place.to_str().unwrap()),
        "{ran:?}"
    );
}

/// A block with one address of n1, one of n2 and one that rests.
const BLOCK: &str = r#"{"cidr":"10.65.0.0/30","affinity":"host:n1","allocations":[0,1,2,null],"unallocated":[3],"attributes":[{"handle_id":"net1.cid1","secondary":{"node":"n1","pod":"web"}},{"handle_id":"net1.cid2","secondary":{"node":"n2"}},{"handle_id":"net1.cid3","secondary":{"node":"n1"},"releasedAt":"2026-11-21T05:00:00Z"}],"sequenceNumber":3,"sequenceNumberForAllocation":{"0":0,"1":1,"2":2},"deleted":false}"#;

#[test]
fn ipam_show_tells_how_addresses_are_used() {
    let lab = Lab::new();
    lab.apply(&POOL.replace("/16", "/24, blockSize: 30"));
    lab.put("/calico/ipam/v2/assignment/ipv4/block/10.65.0.0-30", BLOCK);
    assert_eq!(
        lab.run("ipam show"),
        ok(
            "GROUPING   NAME   CIDR           IPS TOTAL   IPS IN USE   IPS RESTING   IPS FREE\n\
            IP Pool    main   10.65.0.0/24   256         2 (1%)       1             253 (99%)\n"
        )
    );
    assert_eq!(
        lab.run("ipam show --show-blocks --show-borrowed"),
        ok("\
GROUPING   NAME   CIDR           IPS TOTAL   IPS IN USE   IPS RESTING   IPS FREE    AFFINITY
IP Pool    main   10.65.0.0/24   256         2 (1%)       1             253 (99%)
Block      main   10.65.0.0/30   4           2 (50%)      1             1 (25%)     host:n1

IP          BORROWING-NODE   BLOCK          BLOCK OWNER   ALLOCATED TO
10.65.0.1   n2               10.65.0.0/30   host:n1       net1.cid2
")
    );
}

#[test]
fn ipam_show_tells_who_holds_an_address() {
    let lab = Lab::new();
    lab.put("/calico/ipam/v2/assignment/ipv4/block/10.65.0.0-30", BLOCK);
    assert_eq!(
        lab.run("ipam show --ip 10.65.0.0"),
        ok("\
IP 10.65.0.0 is in use (block 10.65.0.0/30 of host:n1)
Handle: net1.cid1
Node: n1
Used by: nothing
Attributes:
  node: n1
  pod: web
")
    );
    assert_eq!(
        lab.run("ipam show --ip 10.65.0.2"),
        ok("\
IP 10.65.0.2 was released at 2026-11-21T05:00:00Z and rests (block 10.65.0.0/30 of host:n1)
Handle: net1.cid3
Node: n1
Cooldown: over since 2026-11-21T05:00:30Z, it may be assigned again
Attributes:
  node: n1
")
    );
    assert_eq!(
        lab.run("ipam show --ip 10.65.0.3"),
        ok("IP 10.65.0.3 is not in use (block 10.65.0.0/30 of host:n1)\n")
    );
    assert_eq!(
        lab.run("ipam show --ip fd00::1"),
        ok("IP fd00::1 is not in use: no block holds it\n")
    );
}

#[test]
fn versions_are_told_as_far_as_they_can_be_reached() {
    let lab = Lab::new();
    let client = format!("Client:   {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(lab.run("version --client"), ok(&client));
    let ran = lab.run("version --socket /does/not/exist");
    assert_eq!(ran.code, 1);
    assert_eq!(
        ran.out,
        format!("{client}Cluster:  (no ClusterInformation)\n")
    );
    assert!(ran.err.starts_with("agent at /does/not/exist: "), "{ran:?}");
}

/// An agent that answers one request with `answer`.
fn answer_once(answer: &'static str) -> (tempfile::TempDir, std::thread::JoinHandle<String>) {
    use std::io::{BufRead, BufReader};
    let folder = tempfile::tempdir().unwrap();
    let listener = std::os::unix::net::UnixListener::bind(folder.path().join("s")).unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
        line
    });
    (folder, thread)
}

#[test]
fn node_status_asks_the_agent() {
    let lab = Lab::new();
    let status = r#"{"ok":{"node":"n1","version":"9.9","ready":true,"not_ready_reasons":[],"uptime_secs":5,"datastore":{"driver":"embedded","connected":true,"since_secs":5,"detail":""},"bgp":{"local_as":64512,"router_id":"","peers":[]},"dataplane":{"backend":"iptables-nft","endpoints":0,"routes":0,"failing":[]}}}
"#;
    let (folder, agent) = answer_once(status);
    let ran = lab.run(&format!(
        "node status --socket {}/s",
        folder.path().display()
    ));
    assert_eq!(
        ran,
        ok("\
Node:        n1 (agent 9.9, up 5s)
Ready:       yes
Datastore:   embedded, connected for 5s
Dataplane:   iptables-nft, 0 endpoints, 0 routes, 0 failing
BGP:         AS 64512, router id (none)
")
    );
    assert_eq!(agent.join().unwrap(), "{\"node_status\":{}}\n");
    let (folder, agent) = answer_once("{\"error\":\"starting\"}\n");
    let ran = lab.run(&format!(
        "node status --socket {}/s",
        folder.path().display()
    ));
    agent.join().unwrap();
    assert_eq!(
        (ran.code, ran.err.ends_with("s: starting\n")),
        (1, true),
        "{ran:?}"
    );
    assert_eq!(lab.run("node status --socket /does/not/exist").code, 3);
}

/// The words of every command that does something.
fn commands(command: &clap::Command, words: &str) -> Vec<String> {
    let below: Vec<_> = command.get_subcommands().collect();
    if below.is_empty() {
        return vec![words.to_owned()];
    }
    let words = |sub: &clap::Command| format!("{words} {}", sub.get_name());
    below
        .iter()
        .flat_map(|sub| commands(sub, &words(sub)))
        .collect()
}

#[test]
fn every_command_has_help_with_an_example() {
    let lab = Lab::new();
    for command in commands(&<Cli as clap::CommandFactory>::command(), "") {
        let ran = lab.run(&format!("{command} --help"));
        assert_eq!(ran.code, 0, "{command}");
        let example = ["Example:\n  ", "Examples:\n  "]
            .iter()
            .any(|word| ran.out.contains(word));
        assert!(
            example && ran.out.contains("margayctl"),
            "{command}: {}",
            ran.out
        );
    }
    assert!(lab.run("--help").out.contains("Exit codes: 0 all done;"));
}
