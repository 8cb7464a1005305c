//! `diff`: what `apply` would change, and exit codes that scripts rely on.

use super::*;

#[test]
fn diff_shows_what_apply_would_change() {
    let lab = Lab::new();
    let new = lab.run_with("diff -f -", POOL);
    assert_eq!(
        new,
        Ran {
            code: 1,
            out: "\
--- /dev/null
+++ applied/IPPool/main
@@ -0,0 +1,15 @@
+apiVersion: projectcalico.org/v3
+kind: IPPool
+metadata:
+  name: main
+spec:
+  allowedUses:
+  - Workload
+  - Tunnel
+  assignmentMode: Automatic
+  blockSize: 26
+  cidr: 10.65.0.0/16
+  ipipMode: Never
+  natOutgoing: true
+  nodeSelector: all()
+  vxlanMode: Never
"
            .to_owned(),
            err: String::new(),
        }
    );
    assert_eq!(lab.run("get pools -o name"), ok(""));
    lab.apply(POOL);
    assert_eq!(lab.run_with("diff -f -", POOL), ok(""));
    let changed = POOL.replace("natOutgoing: true", "natOutgoing: true, disabled: true");
    let ran = lab.run_with("diff -U 1 -f -", &changed);
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (
            1,
            "\
--- stored/IPPool/main
+++ applied/IPPool/main
@@ -13,2 +13,3 @@
   cidr: 10.65.0.0/16
+  disabled: true
   ipipMode: Never
"
        )
    );
    let both = format!("{changed}---\n{POLICY}");
    let ran = lab.run_with("diff --name-only -f -", &both);
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (
            1,
            "IPPool/main: differs\nNetworkPolicy/default/allow-dns: is new\n"
        )
    );
    lab.run_with("apply -f -", &both);
    assert_eq!(lab.run_with("diff -f -", &both), ok(""));
}

#[test]
fn diff_tells_what_apply_would_refuse() {
    let lab = Lab::new();
    lab.apply(POOL);
    let moved = POOL.replace("10.65", "10.66");
    let stale = POOL.replace("{name: main}", "{name: main, resourceVersion: \"7\"}");
    let ran = lab.run_with("diff -f -", &format!("{moved}---\n{stale}---\n{POLICY}"));
    assert_eq!(ran.code, 2);
    assert_eq!(
        ran.err,
        "standard input: document 1 (line 2): IPPool/main: spec.cidr: found 10.66.0.0/16, allowed: \
         10.65.0.0/16, because the range of a pool never changes\n\
         standard input: document 2 (line 8): IPPool/main: changed by somebody else: resourceVersion: \
         found \"7\", the datastore has 1; get it again and repeat the change\n"
    );
    assert!(
        ran.out
            .contains("+++ applied/NetworkPolicy/default/allow-dns"),
        "{ran:?}"
    );
    lab.store.inject(1, Fault::Unavailable);
    assert_eq!(lab.run_with("diff -f -", POOL).code, 3);
}
