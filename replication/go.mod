module github.com/zue-log/zue/replication

go 1.26.0
