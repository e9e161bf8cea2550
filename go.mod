module github.com/tcpwaitd/tcpwaitd

go 1.26
