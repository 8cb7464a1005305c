//! `top`: sessions, routes, endpoints and what rules match, on a terminal, again and again.

mod frame;
mod sample;
mod screen;

use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use crate::agent::Agent;
use crate::context::Context;
use crate::failure::Fatal;
use frame::{Place, frame};
use sample::Sample;
use screen::{Key, Screen};

pub(crate) const HELP: &str = "\
Examples:
  margayctl top --once
  margayctl top --node n1 --view rules --once

Keys: 1 to 5 or Tab for the views, up and down, page up and page down for the rows, p to pause, q to end.
Without a terminal, or with --once, one look is printed.";

/// How to look.
#[derive(Debug, Args)]
pub(crate) struct Top {
    /// The host whose agent is asked, through etcd [default: the one this runs on]
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=3600))]
    interval: u16,
    /// What to show first
    #[arg(long, value_enum, default_value_t = View::Sessions)]
    view: View,
    /// Look once, print and end
    #[arg(long)]
    once: bool,
}

/// What is shown below the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum View {
    /// Peers and their sessions.
    Sessions,
    /// Selected routes.
    Routes,
    /// What is attached to the host.
    Endpoints,
    /// What rules match, and how fast.
    Rules,
    /// Changes of the sessions' states.
    Events,
}

impl View {
    const ALL: [Self; 5] = [
        Self::Sessions,
        Self::Routes,
        Self::Endpoints,
        Self::Rules,
        Self::Events,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Sessions => "Sessions",
            Self::Routes => "Routes",
            Self::Endpoints => "Endpoints",
            Self::Rules => "Rules",
            Self::Events => "Events",
        }
    }

    fn after(self) -> Self {
        let at = Self::ALL.iter().position(|view| *view == self);
        Self::ALL[(at.unwrap_or(0) + 1) % Self::ALL.len()]
    }
}

/// Shows until a key ends it.
pub(crate) async fn top(args: &Top, context: &mut Context<'_>) -> Result<(), Fatal> {
    let mut place = Place {
        view: args.view,
        ..Place::default()
    };
    let mut sample = look(args, None, place.view, context).await?;
    if args.once || context.streams.terminal.width.is_none() {
        let width = context.streams.terminal.width;
        let lines = frame(&sample, &mut place, width.unwrap_or(160), usize::MAX, false);
        return context.streams.print(&(lines.join("\n") + "\n"));
    }
    let screen = Screen::open()?;
    let interval = Duration::from_secs(args.interval.into());
    let mut next = Instant::now() + interval;
    loop {
        let (width, height) = screen.size();
        let colour = context.streams.terminal.colour;
        let lines = frame(&sample, &mut place, width, height, colour);
        screen.draw(&lines, context.streams.stdout)?;
        let view = place.view;
        match screen
            .key(next.saturating_duration_since(Instant::now()))
            .await?
        {
            Some(Key::Quit) => return Ok(()),
            Some(key) => place.press(key, height),
            None => {}
        }
        if place.view != view || (Instant::now() >= next && !place.paused) {
            sample = look(args, Some(sample), place.view, context).await?;
        }
        if Instant::now() >= next {
            next = Instant::now() + interval;
        }
    }
}

async fn look(
    args: &Top,
    before: Option<Sample>,
    view: View,
    context: &Context<'_>,
) -> Result<Sample, Fatal> {
    let agent = Agent::of(args.node.as_deref(), &context.socket, &context.client).await;
    let taken = match agent {
        Ok(agent) => Sample::take(agent, view, before.as_ref(), &context.client).await,
        Err(error) => Err(error),
    };
    match (taken, before) {
        (Ok(sample), _) => Ok(sample),
        // An agent that is restarted comes back; what was seen last stays meanwhile.
        (Err(error), Some(before)) => Ok(before.stale(error.to_string())),
        (Err(error), None) => Err(error),
    }
}

#[cfg(test)]
mod tests;
