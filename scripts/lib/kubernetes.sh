# shellcheck shell=bash
# Tools and renderings of scripts/check-k8s, and a real kube-apiserver.

KUBERNETES=1.37.2
# The version of the modules k8s.io/api and so on that belongs to it.
KUBERNETES_MODULES=0.37.2

find_go() {
    export PATH="$TOOLS/bin:$PATH:/usr/local/go/bin"
    command -v go >/dev/null || die "go (1.26 or newer) is missing: it builds kustomize, kubeconform and kube-score"
}

# Installs a program of a Go module, once for each version.
go_tool() {
    local name="$1" module="$2" mark="$TOOLS/.$1-${2##*@v}"
    [[ -x "$TOOLS/bin/$name" && -e "$mark" ]] && return
    say "installing ${module##*/} …"
    GOBIN="$TOOLS/bin" GOFLAGS=-buildvcs=false go install "$module" >"$DIR/go.log" 2>&1 || { tail -n 5 "$DIR/go.log" >&2; die "$module cannot be built"; }
    touch "$mark"
}

# Prints the folder of a module's source, which is downloaded if it is missing.
go_module() {
    (cd "$DIR" && go mod download -json "$1" 2>&1) | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p' | grep . || die "the Go module $1 cannot be downloaded"
}

# Renders the overlays, dev with each combination of components, and prod with an Ingress, into a folder.
render_all() {
    local folder="$1" overlay component number place chosen components=()
    for overlay in dev prod; do
        kustomize build "deploy/k8s/overlays/$overlay" >"$folder/$overlay.yaml"
    done
    for component in deploy/k8s/components/*/; do
        component="$(basename "$component")"
        # Part of the base.
        [[ "$component" == pod ]] || components+=("$component")
    done
    for (( number = 1; number < 1 << ${#components[@]}; number++ )); do
        chosen=()
        for place in "${!components[@]}"; do
            (( number >> place & 1 )) && chosen+=("${components[place]}")
        done
        render_with dev "${chosen[@]}" >"$folder/dev+$(IFS=+; echo "${chosen[*]}").yaml"
    done
    render_with prod ingress >"$folder/prod+ingress.yaml"
}

# Renders an overlay with further components, as an overlay of an operator would.
render_with() {
    local overlay="$1" base folder component
    shift
    folder="$(mktemp -d "$DIR/overlay.XXXXXX")"
    base="$(realpath --relative-to="$folder" "$ROOT/deploy/k8s")"
    {
        echo "apiVersion: kustomize.config.k8s.io/v1beta1"
        echo "kind: Kustomization"
        echo "namespace: $(sed -n 's/^namespace: //p' "deploy/k8s/overlays/$overlay/kustomization.yaml")"
        echo "resources: [$base/overlays/$overlay]"
        echo "components:"
        for component in "$@"; do echo "  - $base/components/$component"; done
    } >"$folder/kustomization.yaml"
    kustomize build "$folder"
}

# Builds kube-apiserver from the module of Kubernetes, which refers to its parts by folders: the same
# go.mod, with the released modules instead. On two cores this takes about 12 minutes.
build_api_server() {
    local mark="$TOOLS/.kube-apiserver-$KUBERNETES" work="$TARGET/tmp/kube-apiserver" source
    [[ -x "$TOOLS/bin/kube-apiserver" && -e "$mark" ]] && return
    source="$(go_module "k8s.io/kubernetes@v$KUBERNETES")"
    say "building kube-apiserver $KUBERNETES …"
    mkdir -p "$work"
    sed -e 's|^module .*|module apiserver|' -e "s|=> ./staging/src/\(.*\)|=> \1 v$KUBERNETES_MODULES|" "$source/go.mod" >"$work/go.mod"
    cat "$source/go.sum" >"$work/go.sum"
    cat >"$work/main.go" <<'GO'
package main

import (
	"os"
	_ "time/tzdata"

	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	os.Exit(cli.Run(app.NewAPIServerCommand()))
}
GO
    # A cache of its own, so that its gigabytes can be removed afterwards.
    (
        cd "$work"
        export GOFLAGS="-mod=mod -buildvcs=false" GOCACHE="$work/cache"
        go mod edit -require "k8s.io/kubernetes@v$KUBERNETES"
        nice -n 10 go build -trimpath -ldflags '-s -w' -o "$TOOLS/bin/kube-apiserver" .
    ) >"$DIR/go.log" 2>&1 || { tail -n 5 "$DIR/go.log" >&2; die "kube-apiserver cannot be built"; }
    rm -rf "$work"
    touch "$mark"
}

start_api_server() {
    local etcd_port api_port deadline=$((SECONDS + 60))
    command -v etcd >/dev/null || apt etcd-server || die "etcd is missing: 'apt-get install etcd-server' as root"
    command -v kubectl >/dev/null || die "kubectl (1.32 or newer) is missing"
    command -v openssl >/dev/null || apt openssl || die "openssl is missing: 'apt-get install openssl' as root"
    etcd_port="$(free_port "${CHECK_K8S_PORT:-18900}")" || die "no free port found: set CHECK_K8S_PORT"
    local peer_port
    peer_port="$(free_port $((etcd_port + 1)))" || die "no free port found: set CHECK_K8S_PORT"
    api_port="$(free_port $((peer_port + 1)))" || die "no free port found: set CHECK_K8S_PORT"
    etcd --data-dir "$DIR/etcd" --unsafe-no-fsync --listen-client-urls "http://127.0.0.1:$etcd_port" \
        --advertise-client-urls "http://127.0.0.1:$etcd_port" --listen-peer-urls "http://127.0.0.1:$peer_port" \
        --initial-advertise-peer-urls "http://127.0.0.1:$peer_port" --initial-cluster "default=http://127.0.0.1:$peer_port" \
        >"$DIR/etcd.log" 2>&1 &
    started+=("$!")
    openssl genrsa -out "$DIR/accounts.key" 2048 2>/dev/null
    echo "check-k8s,check-k8s,check-k8s,system:masters" >"$DIR/tokens"
    kube-apiserver --etcd-servers "http://127.0.0.1:$etcd_port" --bind-address 127.0.0.1 --secure-port "$api_port" \
        --cert-dir "$DIR/certificates" --service-cluster-ip-range 10.96.0.0/16 --token-auth-file "$DIR/tokens" \
        --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$DIR/accounts.key" \
        --service-account-signing-key-file "$DIR/accounts.key" --authorization-mode RBAC >"$DIR/kube-apiserver.log" 2>&1 &
    started+=("$!")
    cat >"$DIR/kubeconfig" <<YAML
apiVersion: v1
kind: Config
clusters: [{ name: check, cluster: { server: "https://127.0.0.1:$api_port", insecure-skip-tls-verify: true } }]
users: [{ name: check, user: { token: check-k8s } }]
contexts: [{ name: check, context: { cluster: check, user: check } }]
current-context: check
YAML
    export KUBECONFIG="$DIR/kubeconfig"
    until kubectl get --raw /readyz >/dev/null 2>&1; do
        kill -0 "${started[-1]}" 2>/dev/null || { tail -n 5 "$DIR"/{etcd,kube-apiserver}.log >&2; die "kube-apiserver exited"; }
        (( SECONDS < deadline )) || { tail -n 5 "$DIR"/{etcd,kube-apiserver}.log >&2; die "kube-apiserver is not ready after 60 s"; }
        sleep 0.5
    done
}

# Applies a rendering without storing anything; prints what is wrong with it. A warning counts, such as
# that of a pod that its namespace would refuse.
accepted() {
    kubectl apply --server-side --dry-run=server --validate=strict -f "$1" >"$DIR/applied" 2>"$DIR/refused" && [[ ! -s "$DIR/refused" ]]
}

check_on_api_server() {
    local file kinds found=0 planted=0
    build_api_server
    start_api_server
    kubectl apply --server-side -f "$(IFS=,; echo "${CRDS[*]}")" >/dev/null
    kubectl wait --for condition=established --timeout 60s crd --all >/dev/null
    echo "kube-apiserver: $KUBERNETES, $(kubectl get crd --no-headers | wc -l) custom resources"
    # What is in a namespace can be tried only if the namespace exists.
    kubectl apply --server-side -f deploy/k8s/overlays/dev/namespace.yaml -f deploy/k8s/overlays/prod/namespace.yaml >/dev/null
    for file in "$@"; do
        accepted "$file" || { cat "$DIR/refused" >&2; die "the API server refuses $(basename "$file" .yaml), or warns of it"; }
        kinds="$(sed -E 's|^([a-z]+)[./].*|\1|' "$DIR/applied" | sort -u | wc -l)"
        echo "kube-apiserver: $(basename "$file" .yaml): $(wc -l <"$DIR/applied") objects of $kinds kinds accepted"
    done
    mkdir "$DIR/mistakes"
    "$PYTHON/bin/python" -B scripts/lib/check_manifests.py --write-mistakes "$DIR/prod.yaml" "$DIR/mistakes"
    for file in "$DIR"/mistakes/*.yaml; do
        planted=$((planted + 1))
        accepted "$file" && continue
        found=$((found + 1))
        echo "kube-apiserver: finds: $(basename "$file" .yaml): $(tr '\n' ' ' <"$DIR/refused" | cut -c 1-220)"
    done
    echo "kube-apiserver: finds $found of $planted planted mistakes; the others are found by make check-k8s only"
    (( found > 5 )) || die "the API server finds too few of the planted mistakes"
}
