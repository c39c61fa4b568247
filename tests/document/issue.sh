#!/bin/sh
# The document's openssl commands, in its order, as it has them. Run it where its .cnf files are.
set -eu

openssl genrsa -out etcd-ca.key 4096

openssl req -x509 -new -nodes -key etcd-ca.key -days 3650 -out etcd-ca.pem \
        -subj "/C=CN/ST=Shanghai/L=Shanghai/O=k8s/CN=etcd-ca" \
        -config etcd-ca.cnf -extensions v3_req

openssl genrsa -out etcd-server.key 4096

openssl req -new -key etcd-server.key -out etcd-server.csr \
        -subj "/C=CN/ST=Shanghai/L=Shanghai/O=k8s/CN=etcd-server" \
        -config etcd-server.cnf

openssl x509 -req -in etcd-server.csr -CA etcd-ca.pem \
        -CAkey etcd-ca.key -CAcreateserial \
        -out etcd-server.pem -days 3650 \
        -extfile etcd-server.cnf -extensions v3_req

openssl genrsa -out etcd-peer.key 4096

openssl req -new -key etcd-peer.key -out etcd-peer.csr \
        -subj "/C=CN/ST=Shanghai/L=Shanghai/O=k8s/CN=etcd-peer" \
        -config etcd-peer.cnf

openssl x509 -req -in etcd-peer.csr \
        -CA etcd-ca.pem -CAkey etcd-ca.key -CAcreateserial \
        -out etcd-peer.pem -days 3650 \
        -extfile etcd-peer.cnf -extensions v3_req

openssl genrsa -out etcd-client.key 4096

openssl req -new -key etcd-client.key -out etcd-client.csr \
        -subj "/C=CN/ST=Shanghai/L=Shanghai/O=system:masters/CN=etcd-client" \
        -config etcd-client.cnf

openssl x509 -req -in etcd-client.csr \
        -CA etcd-ca.pem -CAkey etcd-ca.key -CAcreateserial \
        -out etcd-client.pem -days 3650 \
        -extfile etcd-client.cnf -extensions v3_req
