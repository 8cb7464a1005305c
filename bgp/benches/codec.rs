//! The wire codec by itself: what an UPDATE costs to take apart and to put together.
//!
//! The speaker decodes attributes only the first time that it sees their octets; `split` and `read`
//! are what every message costs.

mod feed;

use std::{hint::black_box, time::Duration};

use bytes::BytesMut;
use criterion::{BatchSize, Criterion, Throughput};
use margay_bgp::{
    prefix::Ipv4Prefix,
    wire::{
        AttrContext, MAX_LEN, NlriIter, PathAttrs, PeerKind, UpdateFrame, header,
        update_encode::{announce_v4, withdraw_v4},
    },
};

const ROUTES: u32 = 100_000;
const SETS: u32 = 10_000;

fn benches(c: &mut Criterion) {
    messages(c);
    attributes(c);
    prefixes(c);
}

fn messages(c: &mut Criterion) {
    let bodies = feed::announcements(65001, ROUTES);
    let mut stream = BytesMut::new();
    for body in &bodies {
        header::put(&mut stream, header::MessageType::Update, body.len());
        stream.extend_from_slice(body);
    }
    let mut group = c.benchmark_group("codec_messages");
    group.throughput(Throughput::Elements(bodies.len() as u64));
    group.bench_function("frame", |b| {
        b.iter(|| {
            let mut rest = &stream[..];
            let mut count = 0;
            while let Ok(Some((_, len))) = header::peek(rest, false) {
                rest = &rest[len..];
                count += 1;
            }
            count
        });
    });
    group.bench_function("split", |b| {
        b.iter(|| {
            for body in &bodies {
                black_box(UpdateFrame::split(body).expect("made by our encoder"));
            }
        });
    });
    group.finish();
}

fn attributes(c: &mut Criterion) {
    let ctx = AttrContext {
        four_octet_as: true,
        peer: PeerKind::Ebgp,
    };
    let sets: Vec<PathAttrs> = (0..SETS).map(|set| feed::attrs(65001, set)).collect();
    let octets: Vec<_> = sets.iter().map(feed::octets).collect();
    let mut group = c.benchmark_group("codec_attributes");
    group.throughput(Throughput::Elements(SETS.into()));
    group.bench_function("decode", |b| {
        b.iter(|| {
            for set in &octets {
                black_box(PathAttrs::decode(set, &ctx));
            }
        });
    });
    group.bench_function("encode", |b| {
        b.iter_batched_ref(
            || BytesMut::with_capacity(1 << 20),
            |out| sets.iter().for_each(|set| set.encode(true, out)),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn prefixes(c: &mut Criterion) {
    let list: Vec<Ipv4Prefix> = (0..ROUTES).filter_map(feed::prefix).collect();
    let attrs = feed::octets(&feed::attrs(65001, 1));
    let bodies = feed::withdrawals(ROUTES);
    let frames: Vec<_> = bodies
        .iter()
        .map(|body| UpdateFrame::split(body).expect("made by our encoder"))
        .collect();
    let mut group = c.benchmark_group("codec_prefixes");
    group.throughput(Throughput::Elements(ROUTES.into()));
    group.bench_function("read", |b| {
        b.iter(|| {
            let read = frames
                .iter()
                .flat_map(|frame| NlriIter::<Ipv4Prefix>::new(frame.withdrawn, false));
            read.filter(Result::is_ok).count()
        });
    });
    let room = || BytesMut::with_capacity(1 << 20);
    group.bench_function("announce", |b| {
        b.iter_batched_ref(
            room,
            |out| announce_v4(&attrs, list.iter().copied(), MAX_LEN, out),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("withdraw", |b| {
        b.iter_batched_ref(
            room,
            |out| withdraw_v4(list.iter().copied(), MAX_LEN, out),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default()
        .measurement_time(Duration::from_secs(2))
        .warm_up_time(Duration::from_secs(1))
        .configure_from_args();
    benches(&mut criterion);
    criterion.final_summary();
}
