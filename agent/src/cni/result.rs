//! The result of ADD in the format of each spec version.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::mac::format_mac;

/// What an ADD made, independent of the version it is told in.
#[derive(Clone, Debug)]
pub(crate) struct Attachment<'a> {
    pub(crate) host_ifname: &'a str,
    pub(crate) host_mac: [u8; 6],
    pub(crate) container_ifname: &'a str,
    pub(crate) container_mac: [u8; 6],
    pub(crate) netns: &'a str,
    pub(crate) mtu: u32,
    pub(crate) ips: &'a [IpAddr],
    pub(crate) dns: Option<&'a Value>,
}

impl Attachment<'_> {
    /// The result object. 0.3.0 to 0.4.0 want `version` in each address and a `dns` object always;
    /// 1.1.0 alone knows the interface's `mtu` (spec, section "Success"; conversion rules of libcni).
    pub(crate) fn to_result(&self, cni_version: &str) -> Value {
        let before_1_0 = cni_version.starts_with("0.");
        let with_mtu = cni_version == "1.1.0";
        let interface = |name: &str, mac: [u8; 6], sandbox: Option<&str>| {
            let mut object = json!({"name": name, "mac": format_mac(mac)});
            if with_mtu {
                object["mtu"] = Value::from(self.mtu);
            }
            if let Some(sandbox) = sandbox {
                object["sandbox"] = Value::from(sandbox);
            }
            object
        };
        let ips: Vec<Value> = self
            .ips
            .iter()
            .map(|ip| {
                let length = if ip.is_ipv4() { 32 } else { 128 };
                let mut object = json!({"address": format!("{ip}/{length}"), "interface": 1});
                if before_1_0 {
                    object["version"] = Value::from(if ip.is_ipv4() { "4" } else { "6" });
                }
                object
            })
            .collect();
        let mut result = Map::new();
        result.insert("cniVersion".into(), Value::from(cni_version));
        result.insert(
            "interfaces".into(),
            Value::from(vec![
                interface(self.host_ifname, self.host_mac, None),
                interface(self.container_ifname, self.container_mac, Some(self.netns)),
            ]),
        );
        result.insert("ips".into(), Value::from(ips));
        match self.dns {
            Some(dns) => result.insert("dns".into(), dns.clone()),
            None if before_1_0 => result.insert("dns".into(), json!({})),
            None => None,
        };
        Value::from(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(version: &str) -> Value {
        let ips = ["10.65.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        Attachment {
            host_ifname: "mgy0",
            host_mac: [0xee; 6],
            container_ifname: "eth0",
            container_mac: [2, 0, 0, 0, 0, 1],
            netns: "/run/netns/c",
            mtu: 1500,
            ips: &ips,
            dns: None,
        }
        .to_result(version)
    }

    #[test]
    fn each_version_gets_its_own_shape() {
        let old = result("0.4.0");
        assert_eq!(old["ips"][0]["version"], "4");
        assert_eq!(old["ips"][1]["version"], "6");
        assert_eq!(old["dns"], json!({}));
        assert!(old["interfaces"][0].get("mtu").is_none());

        let one = result("1.0.0");
        assert!(one["ips"][0].get("version").is_none());
        assert!(one.get("dns").is_none());
        assert_eq!(
            one["ips"][0],
            json!({"address": "10.65.0.1/32", "interface": 1})
        );
        assert_eq!(one["interfaces"][1]["sandbox"], "/run/netns/c");
        assert!(one["interfaces"][0].get("sandbox").is_none());

        assert_eq!(result("1.1.0")["interfaces"][1]["mtu"], 1500);
    }
}
