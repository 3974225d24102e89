#!/bin/sh
# Keeps a file with the endpoints of a Kubernetes Service: endpointslices.sh <namespace> <service> <port name> <file>
#
# It asks every INTERVAL seconds (2), or once if ONCE is set. It needs kubectl and jq, and the right to list endpointslices in the namespace.
# When Kubernetes does not answer, the file stays as it is.
set -u
namespace=$1 service=$2 port=$3 file=$4
program=$(dirname "$0")/endpointslices.jq

while :; do
	if kubectl get endpointslices --namespace "$namespace" --selector "kubernetes.io/service-name=$service" --output json >"$file.slices" &&
		jq --arg port "$port" --arg family "${FAMILY:-IPv4}" --from-file "$program" "$file.slices" >"$file.new"; then
		mv "$file.new" "$file"
	fi
	rm -f "$file.slices" "$file.new"
	[ -z "${ONCE:-}" ] || break
	sleep "${INTERVAL:-2}"
done
