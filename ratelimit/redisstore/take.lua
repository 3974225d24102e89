-- Takes ARGV[1] tokens from each of the buckets KEYS, or from none: -1 gives one back, 0 looks.
-- Each bucket comes with two arguments: the microseconds in which it fills up, and the tokens that it holds.
-- Returns which bucket refused (0 if none did), after how many microseconds it will not any more, and the tokens of the last.
--
-- A bucket is kept as what it lacks, in microseconds of refilling, at a time of this server: "<time> <lack> <period>". That is the
-- generic cell rate algorithm (ITU-T I.371) with the debt beside the time instead of added to it: as one number of
-- microseconds since 1970 it would be rounded to quarters of one.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local cost = tonumber(ARGV[1])
local lacks, tokens = {}, 0
for i, key in ipairs(KEYS) do
	local period, burst = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
	local lack = 0
	local kept = redis.call('GET', key)
	if kept then
		local at, was, over = string.match(kept, '^(%S+) (%S+) (%S+)$')
		at, over = tonumber(at), tonumber(over)
		-- With another rate it is as full as it was, in proportion.
		lack = tonumber(was) * period / over
		-- The clock of a server may be set back. Nothing flows meanwhile, but from now on.
		if now < at then
			redis.call('SET', key, string.format('%.0f %.17g %.17g', now, lack, period), 'PX', math.ceil(lack / 1000) + 1)
		else
			lack = math.max(0, lack - (now - at))
		end
	end
	local lacking = math.max(0, lack + cost * period / burst)
	if cost > 0 and lacking > period * (1 + 1e-9) then
		return {i, math.ceil(lacking - period), tostring((period - lack) * burst / period)}
	end
	lacks[i] = lacking
	tokens = (period - lacking) * burst / period
end
if cost ~= 0 then
	for i, key in ipairs(KEYS) do
		if lacks[i] > 0 then
			redis.call('SET', key, string.format('%.0f %.17g %.17g', now, lacks[i], tonumber(ARGV[2 * i])), 'PX', math.ceil(lacks[i] / 1000) + 1)
		else
			redis.call('DEL', key)
		end
	end
end
return {0, 0, tostring(tokens)}
