# The endpoints of a Service, as targets: from a list of EndpointSlices, for jq with --arg port <name of the port, "" for the first> and
# --arg family <IPv4 or IPv6>.
#
# Pods that end get weight 0: no new requests, but those of their sessions.
[
	.items[]
	| select(.addressType == $family)
	| (.ports // [] | map(select($port == "" or .name == $port)) | .[0].port) as $number
	| select($number != null)
	| .endpoints // [] | .[]
	| (.conditions.ready != false) as $ready
	| select($ready or .conditions.serving == true)
	| .addresses[0] as $address
	| {
		targets: [(if $family == "IPv6" then "[\($address)]" else $address end) + ":\($number)"],
		labels: {
			name: (.targetRef.name // ""),
			zone: (.zone // ""),
			weight: (if $ready then "" else "0" end)
		}
	}
]
