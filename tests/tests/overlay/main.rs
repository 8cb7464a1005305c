//! Tunnels between hosts: VXLAN in both modes and families, IP in IP as far as the kernel has it.

mod modes;
mod outsiders;
mod paths;
mod traffic;
mod two_subnets;
