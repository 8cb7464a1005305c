//! What became of the sessions that the agent before had left. One process is one hand-over, so that these are not counters.

use margay_speaker::carry::Outcome;

use super::text::{Kind, Text};

/// Nothing until it is decided.
pub(super) fn collect(outcome: Option<&Outcome>, text: &mut Text) {
    let Some(outcome) = outcome else {
        return;
    };
    let (kept, lost, pause) = outcome.sessions();
    let help = "Constant 1, with what became of the BGP sessions of the agent before.";
    let result = vec![("result", outcome.name().to_owned())];
    text.metric(Kind::Gauge, "margay_handover_info", help, [(result, 1.0)]);
    let help = "Sessions of the agent before that went on, and that started anew.";
    let sample = |what: &str, count: usize| (vec![("result", what.to_owned())], count as f64);
    let samples = [sample("kept", kept), sample("lost", lost)];
    text.metric(Kind::Gauge, "margay_handover_sessions", help, samples);
    text.single(
        Kind::Gauge,
        "margay_handover_pause_seconds",
        "For how long nobody served the sessions that went on.",
        pause.as_secs_f64(),
    );
}
