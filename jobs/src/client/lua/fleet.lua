-- The steps of a fleet: who is there, what they have, who takes no jobs, and jobs that are asked for together.

-- batch most key requester name payload want asks notify job... -> whether it is new, its id, which of its jobs are; or FULL,
-- KEYED or BATCH as enqueue answers.
-- All of it is accepted, or nothing: each job is a list of what enqueue takes before max_queued, then notify
-- and placed.
function verbs.enqueue_all(id, most, key, requester, name, payload, want, asks, notify, jobs)
  if redis.call('EXISTS', P .. 'batch:' .. id) == 1 then return { 0, id, {} } end
  local known = given(key) and redis.call('GET', P .. 'key:' .. key)
  if known and redis.call('EXISTS', P .. 'batch:' .. known) == 1 then
    -- The hosts of the same labels may be others by now; what is asked of them is the same.
    if redis.call('HGET', P .. 'batch:' .. known, 'asks') ~= asks then return 'BATCH ' .. known end
    return { 0, known, {} }
  elseif known and redis.call('EXISTS', P .. 'job:' .. known) == 1 then
    return 'KEYED ' .. known
  end
  local list, more = cjson.decode(jobs), {}
  for _, job in ipairs(list) do
    local other = keyed_otherwise(given(job[10]) and redis.call('GET', P .. 'key:' .. job[10]), job[4])
    if other then return other end
    if not redis.call('HGET', P .. 'wants', job[3] .. ' ' .. job[4]) then more[job[2]] = (more[job[2]] or 0) + 1 end
  end
  for kind, count in pairs(more) do
    local backlog = redis.call('ZCARD', P .. 'jobs:' .. kind .. ':queued')
      + redis.call('ZCARD', P .. 'jobs:' .. kind .. ':waiting')
    if backlog + count > tonumber(most) then return 'FULL ' .. int(backlog) end
  end
  local ids, fresh = {}, {}
  for n, job in ipairs(list) do
    local placed, notify = table.remove(job), table.remove(job)
    job[16], job[17], job[18], job[19] = most, notify, placed, id
    local answer = verbs.enqueue(unpack(job, 1, 19))
    local row = answer[2]
    for i = 1, #row, 2 do
      if row[i] == 'id' then ids[n] = row[i + 1] end
    end
    fresh[n] = answer[1]
  end
  -- The same jobs once more are the same batch.
  local text = cjson.encode(ids)
  local same = redis.call('HGET', P .. 'wants', 'batch ' .. want)
  if same and redis.call('HGET', P .. 'batch:' .. same, 'jobs') == text then
    if given(key) then remember_batch_key(same, key) end
    return { 0, same, fresh }
  end
  redis.call('HSET', P .. 'batch:' .. id, 'v', '1', 'id', id, 'created_at', int(NOW), 'requested_by', requester,
    'name', name, 'job', payload, 'want', want, 'asks', asks, 'key', key, 'notify', notify, 'jobs', text)
  redis.call('ZADD', P .. 'batches', int(NOW), id)
  redis.call('HSET', P .. 'wants', 'batch ' .. want, id)
  if given(key) then redis.call('SET', P .. 'key:' .. key, id) end
  if given(notify) then
    redis.call('ZADD', P .. 'notices', int(NOW + SOON), 'batch:' .. id)
    look_at_notices()
  end
  return { 1, id, fresh }
end

-- id -> the batch of that id, or the one that a request of that id led to, and its jobs, those that are forgotten left
-- out; or GONE
function verbs.batch(id)
  local batch = redis.call('HGETALL', P .. 'batch:' .. id)
  if #batch == 0 then
    id = redis.call('GET', P .. 'key:' .. id)
    batch = id and redis.call('HGETALL', P .. 'batch:' .. id) or {}
  end
  if #batch == 0 then return 'GONE' end
  local jobs = {}
  for _, job in ipairs(names(redis.call('HGET', P .. 'batch:' .. id, 'jobs'))) do
    local row = redis.call('HGETALL', P .. 'job:' .. job)
    if #row > 0 then jobs[#jobs + 1] = row end
  end
  return { batch, jobs }
end

-- limit retention -> how many batches were forgotten: old ones whose jobs are
function verbs.reap_batches(limit, retention)
  local gone = 0
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'batches', '-inf', int(NOW - retention), 'LIMIT', 0, limit)) do
    local key = P .. 'batch:' .. id
    local alive = false
    for _, job in ipairs(names(redis.call('HGET', key, 'jobs'))) do
      if redis.call('EXISTS', P .. 'job:' .. job) == 1 then
        alive = true
        break
      end
    end
    if alive then
      -- Looked at again when the others have been.
      redis.call('ZADD', P .. 'batches', int(NOW), id)
    else
      forget_batch(id)
      gone = gone + 1
    end
  end
  return gone
end

-- host instance ttl running about -> whether the queue was new or emptied, who was there under that name before, since when the
-- queue has been there, whether the host takes no jobs, how many hosts are there, whether the fleet has limits, and whether
-- requests wait in the inbox
function verbs.attend(host, instance, ttl, running, about)
  local born, fresh = redis.call('GET', P .. 'born'), false
  if not born then
    fresh = redis.call('SET', P .. 'layout', '1', 'NX')
    born = int(NOW)
    redis.call('SET', P .. 'born', born)
  end
  local before = redis.call('GET', P .. 'host:' .. host)
  redis.call('SET', P .. 'host:' .. host, instance, 'PX', ttl)
  redis.call('ZADD', P .. 'hosts', int(NOW), host)
  redis.call('ZREMRANGEBYSCORE', P .. 'hosts', '-inf', int(NOW - ttl * 1000))
  redis.call('ZADD', P .. 'known', int(NOW), host)
  redis.call('HSET', P .. 'running', host, running)
  if about then redis.call('HSET', P .. 'about', host, about) end
  return {
    fresh and 1 or 0, before or '', born, redis.call('HGET', P .. 'drained', host) and 1 or 0,
    redis.call('ZCARD', P .. 'hosts'), redis.call('EXISTS', P .. 'limits'), redis.call('EXISTS', P .. 'inbox'),
  }
end

-- How long a host counts as one that downloads after it said so.
local SHARING = 6 * 1000000

-- most fields -> nothing; JSON of fields of what the whole fleet may take, of the whole (bandwidth, requests) and of single
-- sources (bandwidth https://host). '' lifts one. All or, if more than `most` sources would have limits, none: 'full'
function verbs.limit(most, fields)
  fields = cjson.decode(fields)
  local after, sources, count = {}, {}, 0
  local held = redis.call('HGETALL', P .. 'limits')
  for n = 1, #held, 2 do after[held[n]] = true end
  for field, value in pairs(fields) do after[field] = value ~= '' or nil end
  for field in pairs(after) do
    local source = string.match(field, ' (.*)')
    if source and not sources[source] then sources[source], count = true, count + 1 end
  end
  if count > tonumber(most) then return 'full' end
  for field, value in pairs(fields) do
    if value == '' then redis.call('HDEL', P .. 'limits', field) else redis.call('HSET', P .. 'limits', field, value) end
  end
  redis.call('PUBLISH', P .. 'to:pool', 'limits')
end

-- -> the fields
function verbs.limits()
  return redis.call('HGETALL', P .. 'limits')
end

-- host active -> the fields, and among how many hosts they are shared
function verbs.share(host, active)
  if active == '1' then redis.call('ZADD', P .. 'sharing', int(NOW), host) else redis.call('ZREM', P .. 'sharing', host) end
  redis.call('ZREMRANGEBYSCORE', P .. 'sharing', '-inf', int(NOW - SHARING))
  return { verbs.limits(), redis.call('ZCARD', P .. 'sharing') }
end

-- run host ttl -> who asks for the jobs of the run: this host, if nobody else does or did; '' if they were asked for
function verbs.take_run(run, host, ttl)
  local by = redis.call('GET', P .. 'run:' .. run)
  if by and by ~= host then return by end
  redis.call('SET', P .. 'run:' .. run, host, 'PX', ttl)
  return host
end

-- run ttl -> nothing; its jobs were asked for
function verbs.end_run(run, ttl)
  redis.call('SET', P .. 'run:' .. run, '', 'PX', ttl)
end

-- run host -> nothing; this host cannot ask for its jobs
function verbs.leave_run(run, host)
  if redis.call('GET', P .. 'run:' .. run) == host then redis.call('DEL', P .. 'run:' .. run) end
end

-- host instance -> nothing; it leaves
function verbs.leave(host, instance)
  if redis.call('GET', P .. 'host:' .. host) == instance then
    redis.call('DEL', P .. 'host:' .. host)
    redis.call('ZREM', P .. 'hosts', host)
  end
end

-- How many jobs of a host's own queue could run, and how many wait.
local function lengths(host)
  local queued, waiting = 0, 0
  for _, kind in ipairs(KINDS) do
    queued = queued + redis.call('ZCARD', P .. 'ready:' .. kind .. ':host:' .. host)
    waiting = waiting + redis.call('ZCARD', P .. 'due:' .. kind .. ':host:' .. host)
  end
  return queued, waiting
end

-- -> of each known host its name, when it was there last, whether it is, how it was drained, what is queued and what
-- waits, what it said of itself, and how many jobs run there
function verbs.hosts()
  local known, hosts = redis.call('ZRANGE', P .. 'known', 0, -1, 'WITHSCORES'), {}
  for i = 1, #known, 2 do
    local host = known[i]
    local queued, waiting = lengths(host)
    hosts[#hosts + 1] = {
      host, known[i + 1], redis.call('EXISTS', P .. 'host:' .. host), redis.call('HGET', P .. 'drained', host) or '',
      queued, waiting, redis.call('HGET', P .. 'about', host) or '', redis.call('HGET', P .. 'running', host) or '0',
    }
  end
  return hosts
end

-- host change... -> nothing; each change is a repo, a commit, and bytes and last use, or '' for a model that is gone
function verbs.stock(host, changes)
  for _, change in ipairs(cjson.decode(changes)) do
    local repo, commit, value = change[1], change[2], change[3]
    if value == '' then
      redis.call('HDEL', P .. 'stock:' .. host, repo .. '@' .. commit)
      redis.call('HDEL', P .. 'has:' .. repo, host .. '@' .. commit)
    else
      redis.call('HSET', P .. 'stock:' .. host, repo .. '@' .. commit, value)
      redis.call('HSET', P .. 'has:' .. repo, host .. '@' .. commit, value)
    end
  end
end

-- host by retention -> whether the host is known; it takes no more jobs
function verbs.drain(host, by, retention)
  local known = redis.call('HGET', P .. 'about', host) and 1 or 0
  if known == 1 and not redis.call('HGET', P .. 'drained', host) then
    redis.call('HSET', P .. 'drained', host, cjson.encode({ since = int(NOW), by = by }))
    redis.call('PUBLISH', P .. 'to:host:' .. host, 'drained')
    -- The first of each kind at once, also if all hands of the host are full; the others when it looks for work.
    for _, kind in ipairs(KINDS) do put_off(kind, host, retention) end
  end
  return known
end

-- host kind skip -> how many of its jobs were queued again, and how many of the last ones were none of those: come
-- again until nothing was queued, skipping these
function verbs.undrain(host, kind, skip)
  redis.call('HDEL', P .. 'drained', host)
  local due, woken, passed = P .. 'due:' .. kind .. ':host:' .. host, 0, 0
  -- The drained ones wait longest.
  for _, id in ipairs(redis.call('ZREVRANGE', due, skip, skip + CHUNK - 1)) do
    local old = load(id)
    if old and is_whole(old) and old.reason == 'host_drained' then
      local job = draft(old)
      job.message = false
      requeue(job)
      save(old, job)
      woken = woken + 1
    else
      passed = passed + 1
    end
  end
  redis.call('PUBLISH', P .. 'to:host:' .. host, 'ready ' .. kind)
  return { woken, passed }
end

-- -> for how many microseconds the queue has been there
function verbs.age()
  return int(NOW - tonumber(redis.call('GET', P .. 'born') or NOW))
end

-- after -> the hosts that have not been there for so long and whose queues hold jobs: name, queued, waiting
function verbs.absent(after)
  local absent = {}
  for _, host in ipairs(redis.call('ZRANGEBYSCORE', P .. 'known', '-inf', int(NOW - after))) do
    local queued, waiting = lengths(host)
    if queued + waiting > 0 and redis.call('EXISTS', P .. 'host:' .. host) == 0 then
      absent[#absent + 1] = { host, queued, waiting }
    end
  end
  return absent
end

-- host kind policy retention -> the jobs of a host that is gone which ended or went to the pool, some at a time. Only a
-- download is for any host: what is to be evicted, verified or measured is that host's.
function verbs.abandon(host, kind, policy, retention)
  local done = {}
  for _, place in ipairs({ 'ready:', 'due:' }) do
    for _, member in ipairs(redis.call('ZRANGE', P .. place .. kind .. ':host:' .. host, 0, CHUNK - 1)) do
      local id = place == 'ready:' and string.sub(member, 17) or member
      local old = load(id)
      if old and is_whole(old) and (old.state == 'queued' or old.state == 'waiting') then
        local job = draft(old)
        job.target = 'pool'
        local other = rival(job)
        local moves = policy == 'pool' and kind == 'download'
        if moves and not other then
          job.placed = host .. ' is gone'
          if job.reason == 'host_drained' then requeue(job) end
        else
          job.target = old.target
          local why = moves and 'the pool has the job ' .. other .. ', which does the same'
            or 'ask for it on another host'
          fail(job, 'host_gone', 'the host ' .. host .. ' is gone; hint: ' .. why, retention)
        end
        save(old, job)
        done[#done + 1] = reply(job, old)
      else
        redis.call('ZREM', P .. place .. kind .. ':host:' .. host, member)
      end
    end
  end
  return done
end

-- keep -> the hosts that were forgotten: not there for so long, and without jobs
function verbs.forget_hosts(keep)
  local gone = {}
  for _, host in ipairs(redis.call('ZRANGEBYSCORE', P .. 'known', '-inf', int(NOW - keep), 'LIMIT', 0, CHUNK)) do
    local queued, waiting = lengths(host)
    if queued + waiting == 0 then
      local stock = redis.call('HGETALL', P .. 'stock:' .. host)
      for i = 1, #stock, 2 do
        local repo, commit = string.match(stock[i], '^(.*)@(.-)$')
        redis.call('HDEL', P .. 'has:' .. repo, host .. '@' .. commit)
      end
      redis.call('DEL', P .. 'stock:' .. host)
      redis.call('HDEL', P .. 'about', host)
      redis.call('HDEL', P .. 'drained', host)
      redis.call('HDEL', P .. 'running', host)
      redis.call('ZREM', P .. 'known', host)
      gone[#gone + 1] = host
    end
  end
  return gone
end

local verb = verbs[ARGV[1]]
if not verb then return redis.error_reply('VERB ' .. tostring(ARGV[1])) end
return verb(unpack(ARGV, 2))
