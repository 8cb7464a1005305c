//! Tunnels between hosts: VXLAN in both modes and families, IP in IP and WireGuard as far as the kernel has them.

mod modes;
mod outsiders;
mod paths;
mod traffic;
mod two_subnets;
mod wireguard;
