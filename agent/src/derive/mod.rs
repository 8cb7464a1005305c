//! Pure functions from the resources to what each part of the agent should have.

mod announcing;
mod filters;
mod globals;
mod overlay;
mod password;
mod peers;
mod speaker;
mod wireguard;
mod world;

pub(crate) use announcing::Announcing;
pub(crate) use globals::{globals, tuning};
pub(crate) use overlay::{
    Fabric, IPIP_OVERHEAD, Through, TunnelKind, Tunnels, VXLAN_OVERHEAD, VXLAN_V6_OVERHEAD,
    VxlanTunnel, WireguardHost, WireguardTunnel, mac_text,
};
pub(crate) use password::StoredSecrets;
pub(crate) use speaker::{Bgp, BgpSettings, bgp};
pub(crate) use wireguard::{WIREGUARD_OVERHEAD, WIREGUARD_V6_OVERHEAD};
pub(crate) use world::{asked, moves, refresh_world, reports};
