//! Answers to questions about this host's kernel: interfaces and ways, as they are at the moment.

use std::io;
use std::net::IpAddr;

use margay_api::Reply;
use margay_api::kernel::{Found, Interface, KernelRequest, Way};
use margay_dataplane::link;
use margay_dataplane::netlink::{NetlinkError, Socket};
use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::task::spawn_blocking;

use crate::server::answer;

/// Answers on the socket. Nothing is kept: a socket of its own is asked, so that nobody waits for the kernel thread.
pub(crate) async fn serve(
    question: KernelRequest,
    writer: &mut (impl AsyncWriteExt + Unpin),
) -> io::Result<()> {
    match question {
        KernelRequest::Interface { name } => {
            let looked = spawn_blocking(move || interface(&name)).await?;
            tell(looked, writer).await
        }
        KernelRequest::Way { to } => tell(spawn_blocking(move || way(to)).await?, writer).await,
    }
}

async fn tell<T: Serialize>(
    looked: Result<Found<T>, NetlinkError>,
    writer: &mut (impl AsyncWriteExt + Unpin),
) -> io::Result<()> {
    match looked {
        Ok(found) => answer(writer, &Reply::Ok(found)).await,
        Err(error) => {
            let why = format!("the kernel was not asked: {error}");
            answer(writer, &Reply::<()>::Error(why)).await
        }
    }
}

fn nothing<T>(missing: String) -> Found<T> {
    Found {
        found: None,
        missing,
    }
}

fn something<T>(found: T) -> Found<T> {
    Found {
        found: Some(found),
        missing: String::new(),
    }
}

fn interface(name: &str) -> Result<Found<Interface>, NetlinkError> {
    let link = link::find(&mut Socket::route()?, name)?;
    Ok(match link {
        None => nothing(format!("interface {name} does not exist")),
        Some(link) => something(Interface {
            mtu: link.mtu,
            up: link.up,
            no_carrier: link.up && !link.running,
            kind: link.kind,
        }),
    })
}

fn way(to: IpAddr) -> Result<Found<Way>, NetlinkError> {
    let mut socket = Socket::route()?;
    let path = match link::route_get(&mut socket, to) {
        // A route that is there to refuse packets says so by an error.
        Err(NetlinkError::Refused(refused)) => return Ok(nothing(refused.to_string())),
        asked => asked?,
    };
    let Some(path) = path else {
        return Ok(nothing("no route".to_owned()));
    };
    let link = link::find(&mut socket, &path.ifname)?;
    Ok(something(Way {
        kind: link.map(|link| link.kind).unwrap_or_default(),
        interface: path.ifname,
        gateway: path.gateway,
        mtu: path.mtu,
    }))
}
