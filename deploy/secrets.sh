#!/bin/sh
# Make the passwords and keys that docker-compose.yml mounts, at random, in deploy/secrets: sh deploy/secrets.sh
# What is there stays as it is. Keys of providers are yours to put in: openrouter_api_key and openai_api_key.
set -eu
unset CDPATH
cd "$(dirname "$0")"
umask 077
if [ -e secrets/secrets.json ]; then
    echo "deploy/secrets is there already; it stays as it is."
    exit 0
fi
rm -rf secrets.new
mkdir secrets.new

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
put() { printf '%s' "$2" >"secrets.new/$1"; }

postgres=$(random) rabbitmq=$(random) token=$(random) admin_key=$(random)
json="\"postgres\": \"$postgres\", \"rabbitmq\": \"$rabbitmq\", \"service-token\": \"$token\", \"admin-key\": \"$admin_key\""
identities=""

put postgres_password "$postgres"
put database_url "postgresql://pixorly:$postgres@postgres:5432/postgres"
put rabbitmq_admin.conf "default_user = pixorly-admin
default_pass = $rabbitmq
default_vhost = pixorly
"
put amqp_url "amqp://pixorly-admin:$rabbitmq@rabbitmq:5672/pixorly"
put rabbitmq_management_url "http://pixorly-admin:$rabbitmq@rabbitmq:15672"
put service_token "$token"
put admin_key "$admin_key"
put grafana_password "$(random)"
put openrouter_api_key ""
put openai_api_key ""

for service in api generator ledger; do
    password=$(random)
    json="$json, \"database-$service\": \"$password\""
    put "${service}_database_url" "postgresql://pixorly_$service:$password@postgres:5432/pixorly_$service"
done
for service in api generator ledger uploader; do
    password=$(random)
    json="$json, \"broker-$service\": \"$password\""
    put "${service}_amqp_url" "amqp://pixorly-$service:$password@rabbitmq:5672/pixorly"
done

# Who may do what in the object store: the generator stages, the uploader keeps, the api reads.
identity() {
    password=$(random)
    put "$1_s3_secret" "$password"
    identities="$identities${identities:+, }{\"name\": \"$1\", \"credentials\": [{\"accessKey\": \"pixorly-$1\", \"secretKey\": \"$password\"}], \"actions\": [$2]}"
}
identity admin '"Admin"'
images='"Read:pixorly-images/users/*", "Read:pixorly-images/public/*", "List:pixorly-images"'
identity api "$images"
identity generator '"Write:pixorly-images/staging/*", "List:pixorly-images"'
identity uploader "$images"', "Read:pixorly-images/staging/*", "Write:pixorly-images/users/*", "Write:pixorly-images/public/*"'
put s3.json "{\"identities\": [$identities]}"
put secrets.json "{$json, \"s3\": \"\"}"

# Each container sees only the files that it is given, and reads them as a user of its own; the folder is closed to others.
chmod 444 secrets.new/*
mv secrets.new secrets
echo "deploy/secrets is made. Next: docker compose up --detach"
