package status

import (
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/ballastlb/ballast/lbmodule/pool"
)

// The classic buckets end at powers of two, which are also bounds of native buckets, so that both count exactly: from a millisecond to
// eight seconds.
const (
	firstClassic = -10
	lastClassic  = 3
)

// histogramMetric is a histogram with classic and native buckets. Scrapers of the protobuf format can use the native ones.
type histogramMetric struct {
	prometheus.Metric // with native buckets
	classic           []*dto.Bucket
}

// Write implements [prometheus.Metric].
func (m histogramMetric) Write(out *dto.Metric) error {
	if err := m.Metric.Write(out); err != nil {
		return err
	}
	out.Histogram.Bucket, out.Histogram.CreatedTimestamp = m.classic, nil
	return nil
}

// histogram sends a histogram of durations.
func (e emitter) histogram(desc *prometheus.Desc, d *pool.Distribution, labels ...string) {
	native := make(map[int]int64)
	for i, n := range d.Counts {
		if n > 0 {
			native[pool.FirstBucket+i] = int64(n)
		}
	}
	m := histogramMetric{Metric: must(prometheus.NewConstNativeHistogram(
		desc, d.Count, d.Sum.Seconds(), native, nil, 0, pool.BucketSchema, 0, time.Time{}, labels...))}
	for exponent := firstClassic; exponent <= lastClassic; exponent++ {
		n, end := d.UpTo(exponent), math.Exp2(float64(exponent))
		m.classic = append(m.classic, &dto.Bucket{CumulativeCount: &n, UpperBound: &end})
	}
	e <- m
}
