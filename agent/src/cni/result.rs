//! The result of ADD in the format of each spec version.

use std::net::IpAddr;

use margay_api::cni::{CniError, code};
use margay_dataplane::attach::{GATEWAY_V4, GATEWAY_V6};
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
    /// The default routes and their gateways are to be told.
    pub(crate) default_routes: bool,
    pub(crate) dns: Option<&'a Value>,
}

impl Attachment<'_> {
    /// The result object: what the plugins before us made, if they made anything, and what we did.
    ///
    /// 0.1.0 and 0.2.0 know one address a family and no interfaces. 0.3.0 to 0.4.0 want `version` in each address and a
    /// `dns` object always; 1.1.0 alone knows the interface's `mtu` (spec, section "Success"; conversion rules of libcni).
    pub(crate) fn to_result(&self, cni_version: &str, previous: Option<&Value>) -> Value {
        let mut result = Map::new();
        result.insert("cniVersion".into(), Value::from(cni_version));
        if matches!(cni_version, "0.1.0" | "0.2.0") {
            self.insert_families(&mut result);
            return Value::from(result);
        }
        let before_1_0 = cni_version.starts_with("0.");
        let listed = |key: &str| match previous.and_then(|previous| previous.get(key)) {
            Some(Value::Array(list)) => list.clone(),
            _ => Vec::new(),
        };
        let mut interfaces = listed("interfaces");
        let own_interface = interfaces.len() + 1;
        interfaces.extend(self.interfaces(cni_version == "1.1.0"));
        let mut ips = listed("ips");
        ips.extend(self.ips.iter().map(|ip| self.address(*ip, own_interface)));
        for ip in &mut ips {
            set_version(ip, before_1_0);
        }
        let mut routes = listed("routes");
        routes.extend(self.default_routes());
        result.insert("interfaces".into(), Value::from(interfaces));
        result.insert("ips".into(), Value::from(ips));
        if !routes.is_empty() {
            result.insert("routes".into(), Value::from(routes));
        }
        let dns = self
            .dns
            .or(previous.and_then(|previous| previous.get("dns")));
        match dns {
            Some(dns) => result.insert("dns".into(), dns.clone()),
            None if before_1_0 => result.insert("dns".into(), json!({})),
            None => None,
        };
        Value::from(result)
    }

    fn insert_families(&self, result: &mut Map<String, Value>) {
        for ip in self.ips {
            let key = if ip.is_ipv4() { "ip4" } else { "ip6" };
            let mut family = json!({"ip": host_network(*ip)});
            if self.default_routes {
                family["gateway"] = gateway(*ip).to_string().into();
                family["routes"] = json!([default_route(*ip)]);
            }
            result.insert(key.into(), family);
        }
        let dns = self.dns.cloned();
        result.insert("dns".into(), dns.unwrap_or_else(|| json!({})));
    }

    fn interfaces(&self, with_mtu: bool) -> [Value; 2] {
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
        [
            interface(self.host_ifname, self.host_mac, None),
            interface(self.container_ifname, self.container_mac, Some(self.netns)),
        ]
    }

    fn address(&self, ip: IpAddr, interface: usize) -> Value {
        let mut object = json!({"address": host_network(ip), "interface": interface});
        if self.default_routes {
            object["gateway"] = gateway(ip).to_string().into();
        }
        object
    }

    fn default_routes(&self) -> impl Iterator<Item = Value> {
        let ips = self.ips.iter().filter(|_| self.default_routes);
        ips.map(|ip| default_route(*ip))
    }
}

/// Makes sure that a `prevResult` can be passed on.
pub(super) fn check_previous(previous: &Value) -> Result<(), CniError> {
    let invalid = |what: String| {
        let msg = format!("prevResult: {what}");
        Err(CniError::new(code::INVALID_CONFIG, msg))
    };
    if !previous.is_object() {
        return invalid("must be an object".to_owned());
    }
    for key in ["interfaces", "ips", "routes"] {
        let list = previous.get(key).filter(|list| !list.is_null());
        let is_list = |list: &Value| {
            let entries = list.as_array();
            entries.is_some_and(|entries| entries.iter().all(Value::is_object))
        };
        if list.is_some_and(|list| !is_list(list)) {
            return invalid(format!("{key} must be a list of objects"));
        }
    }
    for key in ["ip4", "ip6"] {
        if previous.get(key).is_some() {
            return invalid(format!(
                "{key} is of cniVersion 0.2.0 and older, which have no chains"
            ));
        }
    }
    Ok(())
}

fn host_network(ip: IpAddr) -> String {
    let length = if ip.is_ipv4() { 32 } else { 128 };
    format!("{ip}/{length}")
}

fn gateway(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => GATEWAY_V4.into(),
        IpAddr::V6(_) => GATEWAY_V6.into(),
    }
}

fn default_route(ip: IpAddr) -> Value {
    let everything = if ip.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
    json!({"dst": everything, "gw": gateway(ip).to_string()})
}

/// What an address of a list needs in this version, also where another plugin wrote it in another one.
fn set_version(ip: &mut Value, before_1_0: bool) {
    let is_v6 = ip["address"]
        .as_str()
        .is_some_and(|address| address.contains(':'));
    let Some(object) = ip.as_object_mut() else {
        return;
    };
    match before_1_0 {
        true => object.insert("version".into(), Value::from(if is_v6 { "6" } else { "4" })),
        false => object.remove("version"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(version: &str, default_routes: bool, previous: Option<&Value>) -> Value {
        let ips = ["10.65.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        Attachment {
            host_ifname: "mgy0",
            host_mac: [0xee; 6],
            container_ifname: "eth0",
            container_mac: [2, 0, 0, 0, 0, 1],
            netns: "/run/netns/c",
            mtu: 1500,
            ips: &ips,
            default_routes,
            dns: None,
        }
        .to_result(version, previous)
    }

    fn result(version: &str) -> Value {
        with(version, false, None)
    }

    #[test]
    fn each_version_gets_its_own_shape() {
        for version in ["0.1.0", "0.2.0"] {
            let expected = json!({"cniVersion": version, "ip4": {"ip": "10.65.0.1/32"},
                "ip6": {"ip": "fd00::1/128"}, "dns": {}});
            assert_eq!(result(version), expected);
        }
        for version in ["0.3.0", "0.3.1", "0.4.0"] {
            let old = result(version);
            assert_eq!(old["cniVersion"], version);
            assert_eq!(old["ips"][0]["version"], "4");
            assert_eq!(old["ips"][1]["version"], "6");
            assert_eq!(old["dns"], json!({}));
            assert!(old["interfaces"][0].get("mtu").is_none());
        }
        let one = result("1.0.0");
        assert!(one["ips"][0].get("version").is_none());
        assert!(one.get("dns").is_none());
        assert_eq!(
            one["ips"][0],
            json!({"address": "10.65.0.1/32", "interface": 1})
        );
        assert_eq!(one["interfaces"][1]["sandbox"], "/run/netns/c");
        assert!(one["interfaces"][0].get("sandbox").is_none());
        assert!(one.get("routes").is_none());

        assert_eq!(result("1.1.0")["interfaces"][1]["mtu"], 1500);
    }

    #[test]
    fn default_routes_are_named_where_they_are_asked_for() {
        let v6 = json!({"dst": "::/0", "gw": "fe80::ecee:eeff:feee:eeee"});
        let result = with("1.0.0", true, None);
        let v4 = json!({"dst": "0.0.0.0/0", "gw": "169.254.1.1"});
        assert_eq!(result["routes"], json!([v4, v6]));
        assert_eq!(result["ips"][0]["gateway"], "169.254.1.1");
        let old = with("0.2.0", true, None);
        assert_eq!(old["ip6"]["routes"], json!([v6]));
    }

    #[test]
    fn what_plugins_before_us_made_comes_first_and_keeps_its_interfaces() {
        let previous = json!({"cniVersion": "0.4.0", "interfaces": [{"name": "br0"}, {"name": "x0"}],
            "ips": [{"version": "4", "address": "192.0.2.9/24", "interface": 1}],
            "routes": [{"dst": "198.51.100.0/24"}], "dns": {"domain": "a.test"}});
        check_previous(&previous).unwrap();
        let merged = with("1.0.0", true, Some(&previous));
        let names: Vec<_> = merged["interfaces"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| &i["name"])
            .collect();
        assert_eq!(names, ["br0", "x0", "mgy0", "eth0"]);
        assert_eq!(
            merged["ips"][0],
            json!({"address": "192.0.2.9/24", "interface": 1})
        );
        assert_eq!(merged["ips"][1]["interface"], 3);
        assert_eq!(merged["routes"].as_array().unwrap().len(), 3);
        assert_eq!(merged["dns"]["domain"], "a.test");
        assert_eq!(merged["cniVersion"], "1.0.0");
    }

    #[test]
    fn a_previous_result_that_cannot_be_passed_on_is_refused() {
        for previous in [
            json!(7),
            json!({"ips": "x"}),
            json!({"ips": [1]}),
            json!({"ip4": {}}),
        ] {
            let error = check_previous(&previous).unwrap_err();
            assert_eq!(error.code, code::INVALID_CONFIG);
            assert!(error.msg.starts_with("prevResult: "), "{}", error.msg);
        }
        check_previous(&json!({"ips": null})).unwrap();
    }
}
