//! What reading costs: 10,000 documents of a manifest, decoded and validated, and the same from the store.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use margay_model::manifest::{Document, decode_manifest};
use margay_model::stored::{decode_stored, encode_stored};

const DOCUMENTS: usize = 10_000;

/// A policy as people write it.
fn policy(number: usize) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata:\n  name: p{number}\n  \
         namespace: prod\n  labels: {{team: web}}\nspec:\n  order: {number}\n  selector: app == \
         'web'\n  types: [Ingress]\n  ingress:\n  - action: Allow\n    protocol: TCP\n    source:\n\
         \x20     selector: app == 'front'\n      nets: [10.0.0.0/8]\n    destination:\n      \
         ports: [80, 443, '8000:8080']\n"
    )
}

fn read(text: &str) -> Vec<Document> {
    decode_manifest(text, &|_| Ok(()))
}

fn benches(criterion: &mut Criterion) {
    let documents: Vec<_> = (0..DOCUMENTS).map(policy).collect();
    let yaml = documents.join("---\n");
    let resources = read(&yaml).into_iter().map(|document| document.result);
    let resources: Vec<_> = resources
        .map(|result| result.expect("it is valid"))
        .collect();
    let stored = resources
        .iter()
        .map(|resource| (resource.key(), encode_stored(resource)));
    let stored: Vec<_> = stored.collect();
    let json: Vec<_> = stored
        .iter()
        .map(|(_, bytes)| String::from_utf8_lossy(bytes))
        .collect();
    let json = json.join("\n");

    let mut group = criterion.benchmark_group("10k policies");
    group
        .throughput(Throughput::Elements(DOCUMENTS as u64))
        .sample_size(10);
    group.bench_function("yaml", |bencher| bencher.iter(|| read(&yaml)));
    group.bench_function("json", |bencher| bencher.iter(|| read(&json)));
    group.bench_function("stored", |bencher| {
        bencher.iter(|| {
            let decoded = stored.iter().map(|(key, bytes)| decode_stored(key, bytes));
            decoded.filter(Result::is_ok).count()
        });
    });
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
