import time, httpx, numpy as np
def test_bench(site, make):
    images=[make(n, Rows=512, Columns=512, PixelData=np.zeros((512,512),'<i2').tobytes()) for n in range(1,201)]
    t=time.time(); site.take(*images, with_metadata=True); print("take", time.time()-t)
    with httpx.Client(headers=site.headers, timeout=60) as c:
        b=site.url+"/dicom-web/studies/1.2.3/series/1.2.3.4/instances/"
        for rnd in range(2):
            t=time.time(); u=time.process_time()
            for i in images:
                r=c.get(b+i.SOPInstanceUID+"/frames/1", headers={"Accept":'multipart/related; type="application/octet-stream"; transfer-syntax=*'}); assert r.status_code==200
            print("frames ms each", (time.time()-t)*1000/200, "cpu (client+server)", (time.process_time()-u)*1000/200)
        t=time.time(); u=time.process_time(); r=c.get(site.url+"/dicom-web/studies/1.2.3/metadata"); print("metadata ms", (time.time()-t)*1000, len(r.content), (time.process_time()-u)*1000)
        t=time.time(); r=c.get(site.url+"/dicom-web/studies/1.2.3"); print("study ms", (time.time()-t)*1000, len(r.content))
        t=time.time(); r=c.get(site.url+"/dicom-web/studies/1.2.3/series/1.2.3.4/thumbnail"); print("thumb ms", (time.time()-t)*1000, len(r.content))
        t=time.time(); r=c.get(site.url+"/dicom-web/studies"); print("qido ms", (time.time()-t)*1000, len(r.content))
    assert 0
