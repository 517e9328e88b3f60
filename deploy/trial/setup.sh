#!/bin/sh
# Makes the members of the trial cluster in the volume of their configuration, once. They stay as they
# are when the containers are started again: other keys would be another cluster.
set -eu

cd /etc/pbft-ci
if [ -e made ]; then exit 0; fi
# what an interrupted run left; nobody has used it
rm -rf node0 node1 node2 node3 gateway cluster.yml

for name in node0 node1 node2 node3; do
    pbft-ci-node init --name "$name" --folder "$name" --data-folder /var/lib/pbft-ci \
        --listen 0.0.0.0:10000 --address "$name:10000" --repository "$REPOSITORY"
done
pbft-ci-gateway init --name gateway --folder gateway --data-folder /var/lib/pbft-ci \
    --listen 127.0.0.1:8080 --repository "$REPOSITORY"
# compose.yaml publishes the port on this machine alone
sed -i 's/^listen: .*/listen: 0.0.0.0:8080\nplaintext_allowed: true/' gateway/client.yml
(
    umask 077
    python3 -c 'import secrets; print(secrets.token_hex(32))' >gateway/api.token
)
echo 'api_token_file: api.token' >>gateway/client.yml

pbft-ci cluster assemble node?/node?.entry.yml gateway/gateway.entry.yml --output cluster.yml
digits="$(pbft-ci cluster fingerprint cluster.yml | sed -n 's/^In digits: //p')"
for name in node0 node1 node2 node3 gateway; do
    cp cluster.yml "$name/"
done
for name in node0 node1 node2 node3; do
    pbft-ci-node --config "$name/node.yml" confirm "$digits"
done
pbft-ci-gateway --config gateway/client.yml confirm "$digits"
touch made
