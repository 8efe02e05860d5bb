package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	keepEvery = 30 * time.Second
	// Health complains when live data fill so much of the quota.
	warnAt = 0.6
	// After the quota alarm, writes are let in again below this.
	resumeBelow = 0.8
	// Defragmenting stops the server for about 10 ms per MiB of live data: not for less air
	// than this, and not while less than half of the file is air.
	worthwhile = 64 << 20
)

var (
	fileBytes = promauto.NewGauge(prometheus.GaugeOpts{
		Name: "ichiro_store_file_bytes", Help: "Size of the store's file."})
	liveBytes = promauto.NewGauge(prometheus.GaugeOpts{
		Name: "ichiro_store_live_bytes", Help: "Part of the store's file that is in use."})
	quotaBytes = promauto.NewGauge(prometheus.GaugeOpts{
		Name: "ichiro_store_quota_bytes", Help: "Size at which the store refuses writes."})
	defragmentations = promauto.NewCounter(prometheus.CounterOpts{
		Name: "ichiro_store_defragmentations_total", Help: "How often the store's file was written anew."})
)

// keeper is what the keeping of the store knows.
type keeper struct {
	mu     sync.Mutex
	health error
}

// Health says what an operator should look at.
func (s *Server) Health() error {
	s.keeper.mu.Lock()
	defer s.keeper.mu.Unlock()
	return s.keeper.health
}

// keep looks after the store every half minute.
func (s *Server) keep(ctx context.Context) {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for {
		health := s.look(ctx)
		if ctx.Err() != nil {
			return
		}
		s.keeper.mu.Lock()
		before := s.keeper.health
		s.keeper.health = health
		s.keeper.mu.Unlock()
		if health != nil && (before == nil || before.Error() != health.Error()) {
			s.log.Warn("store needs attention", "err", health)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// look measures the store, makes room if that is worth it, and returns what is wrong.
func (s *Server) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, keepEvery)
	defer cancel()
	etcd := s.client.Etcd()
	if s.embedded == nil {
		// Its file is kept by whoever runs the cluster.
		if _, err := etcd.Get(ctx, "/ichiro/v1/cluster/", clientv3.WithKeysOnly()); err != nil {
			return fmt.Errorf("the cluster does not answer: %v", err)
		}
		return nil
	}
	st, err := etcd.Status(ctx, "")
	if err != nil {
		return fmt.Errorf("ask the store how it is: %v", err)
	}
	fileBytes.Set(float64(st.DbSize))
	liveBytes.Set(float64(st.DbSizeInUse))
	quotaBytes.Set(float64(s.quota))
	full, err := s.alarmed(ctx)
	if err != nil {
		return fmt.Errorf("ask the store for alarms: %v", err)
	}
	if full {
		return s.makeRoom(ctx, st.Header.Revision)
	}
	if air := st.DbSize - st.DbSizeInUse; air >= worthwhile && air > st.DbSize/2 {
		if err := s.defragment(); err != nil {
			return err
		}
	}
	if used := float64(st.DbSizeInUse) / float64(s.quota); used >= warnAt {
		return fmt.Errorf("the store is %.0f %% full (%d of %d MiB): delete what is not needed, or raise its quota",
			100*used, st.DbSizeInUse>>20, s.quota>>20)
	}
	return nil
}

func (s *Server) alarmed(ctx context.Context) (full bool, err error) {
	alarms, err := s.client.Etcd().AlarmList(ctx)
	if err != nil {
		return false, err
	}
	for _, a := range alarms.Alarms {
		full = full || a.Alarm == pb.AlarmType_NOSPACE
	}
	return full, nil
}

// makeRoom drops history and air, and lets writes in again if that helped.
func (s *Server) makeRoom(ctx context.Context, rev int64) error {
	etcd := s.client.Etcd()
	if _, err := etcd.Compact(ctx, rev, clientv3.WithCompactPhysical()); err != nil && ctx.Err() != nil {
		return fmt.Errorf("compact a full store: %v", err)
	}
	if err := s.defragment(); err != nil {
		return err
	}
	st, err := etcd.Status(ctx, "")
	if err != nil {
		return fmt.Errorf("ask the store how it is: %v", err)
	}
	if st.DbSize >= int64(resumeBelow*float64(s.quota)) {
		return errors.New("the store is full and refuses writes: delete what is not needed, or raise its quota")
	}
	if _, err := etcd.AlarmDisarm(ctx, &clientv3.AlarmMember{}); err != nil {
		return fmt.Errorf("take up writes again: %v", err)
	}
	s.log.Warn("store was full and has room again", "bytes", st.DbSize)
	return nil
}

func (s *Server) defragment() error {
	begin := time.Now()
	if err := s.embedded.Server.Backend().Defrag(); err != nil { // the client inside the process cannot
		return fmt.Errorf("defragment the store: %v", err)
	}
	defragmentations.Inc()
	s.log.Info("store defragmented", "took", time.Since(begin).Round(time.Millisecond))
	return nil
}
