//! The speaker on the loopback interface, with peers played by the test: what load, strangers and watchers do to it.
//! Needs no rights; the archives are read by bgpdump and GoBGP.

mod bmp;
mod handover;
mod limits;
mod mrt;
mod raw;
mod readers;
mod refresh;
